"""What is left of a run folder, read without the engine's own readers, and what two such states differ in.

Lost, duplicated, corrupt and unequal mean one thing each:

lost        work that was stored or announced before a fault, and is not there, or was made again, after it
duplicated  a take beyond those of the undisturbed run, one of a place that is taken, or work announced twice
corrupt     a database, JSON file or clip that cannot be read whole; a chosen clip that is not its take's
unequal     a scenario whose outcome, prompts, scores or pictures are not those of the undisturbed run
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sqlite3
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

Key = tuple[str, int]
"""A take: its scenario and its number there."""
CLOCK = ("timings", "seconds")
"""What no two runs have in common."""
TABLES = {"plans": ("scenario_id",), "attempts": ("scenario_id", "number"), "outcomes": ("scenario_id",)}


@dataclass(slots=True, kw_only=True)
class State:
    """A run folder at rest. Rows are dictionaries by column, JSON decoded."""

    plans: dict[Any, dict[str, Any]] = field(default_factory=dict)
    attempts: dict[Any, dict[str, Any]] = field(default_factory=dict)
    outcomes: dict[Any, dict[str, Any]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    """Digest of each file in chosen/ by the scenario it belongs to."""
    clips: dict[Key, str] = field(default_factory=dict)
    """Digest of each take's clip."""
    repeated: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    """Files of unfinished work."""


@dataclass(slots=True, kw_only=True)
class Damage:
    """What a fault cost, each entry a sentence; all empty is the only good answer."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any((self.lost, self.duplicated, self.corrupt, self.unequal))


def read_state(run: Path) -> State:
    """Of a folder that no process writes. Reads a copy of the database: reading would finish its recovery."""
    state = State()
    if (run / "run.sqlite").is_file():
        with tempfile.TemporaryDirectory() as folder:
            for path in run.glob("run.sqlite*"):
                if not path.name.endswith("-shm"):
                    shutil.copyfile(path, Path(folder) / path.name)
            try:
                _read_database(Path(folder) / "run.sqlite", run, state)
            except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
                state.unreadable.append(f"run.sqlite: {error}")
    _read_files(run, state)
    return state


def announced(output: str, scenario_ids: Sequence[str]) -> set[tuple[str, str]]:
    """What a command told of finished work: (scenario, "plan" | "take N" | "winner of round N" | "chose").

    A set: a line that an interrupt cut off is printed again by the same process.
    """
    found: set[tuple[str, str]] = set()
    for line in output.splitlines():
        for name in scenario_ids:
            if line.startswith(f"{name}: "):
                words = line.removeprefix(f"{name}: ").replace(":", " ").split()
                length = {"take": 2, "winner": 4}.get(words[0], 1)
                found.add((name, " ".join(words[:length])))
    return found


def compare(reference: State, before: Sequence[State], after: State, outputs: Sequence[str]) -> Damage:
    """`before` are the states between the processes, `after` the last one, `outputs` what each said."""
    damage = Damage(
        duplicated=list(after.repeated), corrupt=list(after.unreadable), left_over=list(after.left_over)
    )
    ids = [name for (name,) in reference.outcomes]
    told = [announced(output, ids) for output in outputs]
    for output, state in zip(told, [*before, after], strict=True):
        damage.lost += _announced_in_vain(output, state)
    for earlier, later in itertools.pairwise([*before, after]):
        damage.lost += _lost(earlier, later)
    tellers = Counter(entry for output in told for entry in output)
    damage.duplicated += [
        f"{name}: {what} announced by {count} processes"
        for (name, what), count in tellers.items()
        if count > 1 and what != "failed"
    ]
    damage.duplicated += [f"take {key} is one too many" for key in after.attempts.keys() - reference.attempts]
    damage.corrupt += _wrong_copies(after)
    for name in ids:
        if (found := _facts(after, name)) != (wanted := _facts(reference, name)):
            damage.unequal.append(f"{name}: {_first_difference(wanted, found)}")
    return damage


def _announced_in_vain(output: set[tuple[str, str]], state: State) -> Iterator[str]:
    for name, what in output:
        kind, *rest = what.split()
        stored = {
            "plan": lambda name=name: (name,) in state.plans,
            "take": lambda name=name, rest=rest: (name, int(rest[0])) in state.attempts,
            "chose": lambda name=name: (name,) in state.outcomes,
            "winner": lambda name=name, rest=rest: any(
                row["scenario_id"] == name and str(row["round"]) == rest[2] and row["critique"] is not None
                for row in state.attempts.values()
            ),
        }.get(kind)
        if stored is not None and not stored():
            yield f"{name}: {what} was announced and is not stored"


def _lost(earlier: State, later: State) -> Iterator[str]:
    """What `earlier` had and `later` has not, or has from another process: then the clock differs."""
    for key, row in earlier.plans.items():
        if later.plans.get(key) != row:
            yield f"plan of {key[0]}"
    for key, row in earlier.attempts.items():
        now = later.attempts.get(key)
        if now is None or any(now[name] != value for name, value in row.items() if _settled(row, name)):
            yield f"take {key}"
        elif earlier.clips.get(key) != later.clips.get(key):
            yield f"clip of take {key}"
    for key, row in earlier.outcomes.items():
        if row["failure"] is None and later.outcomes.get(key) != row:
            yield f"outcome of {key[0]}"


def _settled(row: Mapping[str, Any], column: str) -> bool:
    """Whether a column stays as it is: scores come with the outcome, and a critique may come later."""
    if column == "selector_scores":
        return False
    return row["critique"] is not None or column not in ("critique", "timings")


def _wrong_copies(state: State) -> Iterator[str]:
    for (name,), row in state.outcomes.items():
        if row["chosen"] is not None and state.chosen.get(name) != state.clips.get((name, row["chosen"]), ""):
            yield f"chosen clip of {name} is not its take {row['chosen']}"


def _facts(state: State, name: str) -> dict[str, Any]:
    """Of one scenario, without the clock."""
    facts: dict[str, Any] = {"plan": state.plans.get((name,)), "outcome": state.outcomes.get((name,))}
    for key, row in state.attempts.items():
        if key[0] == name:
            facts[f"take {key[1]}"] = row
            facts[f"clip {key[1]}"] = state.clips.get(key)
    facts["chosen"] = state.chosen.get(name)
    return {key: _timeless(value) for key, value in facts.items()}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in CLOCK}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def _first_difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    key = next(key for key in (*wanted, *found) if wanted.get(key) != found.get(key))
    return f"{key} is {str(found.get(key))[:120]}, undisturbed {str(wanted.get(key))[:120]}"


def _read_database(path: Path, run: Path, state: State) -> None:
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    try:
        for (verdict,) in database.execute("PRAGMA integrity_check").fetchall():
            if verdict != "ok":
                state.unreadable.append(f"run.sqlite: {verdict}")
        for table, *_ in database.execute("PRAGMA foreign_key_check").fetchall():
            state.unreadable.append(f"run.sqlite: a row of {table} refers to nothing")
        for table, columns in TABLES.items():
            rows = getattr(state, table)
            for row in database.execute(f"SELECT * FROM {table}").fetchall():
                key = tuple(row[column] for column in columns)
                if key in rows:
                    state.repeated.append(f"{table}: {key} twice")
                rows[key] = {column: _decoded(row[column]) for column in row.keys()}  # noqa: SIM118
        names = dict(database.execute("SELECT output_name, id FROM scenarios").fetchall())
    finally:
        database.close()
    places = Counter((row["scenario_id"], row["round"], row["sample"]) for row in state.attempts.values())
    state.repeated += [f"take at {place} made {count} times" for place, count in places.items() if count > 1]
    for key, row in state.attempts.items():
        state.clips[key] = _clip_digest(run / row["video_path"], state)
    for path in sorted((run / "chosen").glob("*.mp4")):
        if path.name in names:
            state.chosen[names[path.name]] = _clip_digest(path, state)
    known = {run / row["video_path"] for row in state.attempts.values()}
    state.left_over += [str(p.relative_to(run)) for p in run.rglob("*.mp4") if not _accounted(p, run, known)]


def _accounted(path: Path, run: Path, known: set[Path]) -> bool:
    return path in known or path.parent == run / "chosen"


def _read_files(run: Path, state: State) -> None:
    for name, read in (
        ("manifest.json", json.loads),
        ("trace.json", json.loads),
        ("config.toml", tomllib.loads),
    ):
        if (run / name).is_file():
            try:
                read((run / name).read_text(encoding="utf-8"))
            except ValueError as error:
                state.unreadable.append(f"{name}: {error}")
    state.left_over += [str(path.relative_to(run)) for path in run.rglob(".*.partial*")]


def _clip_digest(path: Path, state: State) -> str:
    """sha256; a clip that does not decode to its end is noted as unreadable."""
    if not path.is_file():
        state.unreadable.append(f"{path.parent.name}/{path.name} is missing")
        return ""
    try:
        with av.open(str(path)) as container:
            announced_frames = container.streams.video[0].frames
            num_frames = sum(1 for _ in container.decode(video=0))
        if num_frames != announced_frames or num_frames == 0:
            state.unreadable.append(
                f"{path.parent.name}/{path.name}: {num_frames} frames of {announced_frames}"
            )
    except (av.FFmpegError, IndexError) as error:
        state.unreadable.append(f"{path.parent.name}/{path.name}: {error}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _decoded(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
