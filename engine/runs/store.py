"""The run folder: one SQLite file (WAL) beside the videos; a killed run loses no finished attempt.

Knows no model and no codec: others write each video, before its row. Invariants: a committed attempt has its
video on disk, and a take whose file is not the one that was stored is told before it is used. A video without
a row is of no account and is overwritten on resume.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from engine.errors import StoreError
from engine.runs.database import ATTEMPT_COLUMNS, Database, damaged
from engine.runs.folder import (
    CHOSEN,
    DATABASE,
    VIDEOS,
    check_names,
    flush,
    place_in,
    remove_parts,
    take_lock,
    unwritable,
    writing,
)
from engine.runs.from_json import critique_from_dict, plan_reply_from_dict, prompt_from_dict
from engine.types import (
    Attempt,
    Clip,
    History,
    Outcome,
    PlanReply,
    Scenario,
)
from kernels.files import file_digest, parse_json, whole_file

T = TypeVar("T")


class RunStore:
    """The record of one run, and the scheduler's sink. One process writes; others may read meanwhile."""

    def __init__(self, folder: Path, database: Database, lock: IO[bytes] | None) -> None:
        self.folder = folder
        self._database = database
        self._lock = lock

    @classmethod
    def claim(cls, folder: Path, scenarios: Sequence[Scenario]) -> IO[bytes]:
        """The lock of a run folder that is about to be made; held until closed.

        StoreError if there is a run, another process writes one, two scenarios share a name, or the folder
        cannot be written or locked. Nothing of another run is touched.
        """
        check_names(scenarios)
        if not (folder / DATABASE).exists():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{folder} cannot be made: {error.strerror}", fix="choose another folder with --out"
                ) from error
            lock = take_lock(folder)
            if not (folder / DATABASE).exists():
                return lock
            lock.close()  # another process was faster
        raise StoreError(
            f"{folder} already holds a run",
            fix=f"continue it with `retake resume {folder}`, or choose another folder with --out",
        )

    @classmethod
    def create(
        cls, folder: Path, scenarios: Sequence[Scenario], *, claim: IO[bytes] | None = None
    ) -> RunStore:
        """A new run folder for these scenarios, under its `claim`; StoreError as `claim` raises it."""
        lock = claim or cls.claim(folder, scenarios)
        with writing(folder):
            for name in (VIDEOS, CHOSEN):
                place_in(folder, name).mkdir(parents=True, exist_ok=True)
        remove_parts(folder)  # of one that was killed while it began
        unwritable(folder, scenarios)  # makes their folders; whoever runs them asks again for the reasons
        rows = [_scenario_row(position, scenario) for position, scenario in enumerate(scenarios)]
        return cls(folder, Database.create(folder / DATABASE, rows), lock)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> RunStore:
        """An existing run folder. StoreError: there is none, it is newer, damaged, in use, or names a file
        outside of it.

        Read-only opening takes no lock. Else what killed writers left half written is removed.
        """
        if not (folder / DATABASE).is_file():
            raise StoreError(
                f"{folder} is not a run folder: it holds no {DATABASE}", fix="name the folder given as --out"
            )
        with ExitStack() as refused:
            lock = None if read_only else refused.enter_context(take_lock(folder))
            path = place_in(folder, DATABASE)
            store = cls(folder, Database(path, read_only=read_only), lock)
            refused.callback(store.close)
            store._check_places()
            if not read_only:
                remove_parts(folder)
            refused.pop_all()
        return store

    def close(self) -> None:
        self._database.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # What the scheduler hands over; each call is durable when it returns.

    def plan(self, scenario_id: str, reply: PlanReply) -> None:
        with self._database.transaction() as database:
            database.execute("INSERT INTO plans VALUES (?, ?)", (scenario_id, _dumps(asdict(reply))))

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        """Record a take whose video lies at `attempt.video_path` already."""
        video = place_in(self.folder, attempt.video_path)
        with writing(self.folder):
            flush(video)
        row = (
            scenario_id,
            attempt.index,
            _dumps(asdict(attempt.prompt)),
            attempt.video_path.as_posix(),
            None if attempt.critique is None else _dumps(asdict(attempt.critique)),
            _dumps(attempt.selector_scores),
            _dumps(attempt.timings),
            attempt.round,
            attempt.sample,
            file_digest(video),
        )
        with self._database.transaction() as database:
            columns = f"scenario_id, {ATTEMPT_COLUMNS}, video_sha256"
            marks = ",".join("?" * len(row))
            database.execute(f"INSERT INTO attempts ({columns}) VALUES ({marks})", row)  # nosec B608

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        """Add the critique to a take that was recorded without one."""
        assert attempt.critique is not None, f"take {attempt.index} of {scenario_id} was not judged"
        row = (_dumps(asdict(attempt.critique)), _dumps(attempt.timings), scenario_id, attempt.index)
        with self._database.transaction() as database:
            database.execute(
                "UPDATE attempts SET critique = ?, timings = ? WHERE scenario_id = ? AND number = ?", row
            )

    def outcome(self, outcome: Outcome) -> None:
        """Copy the chosen take to `chosen/`, then record the outcome and the selectors' scores."""
        if outcome.chosen is not None:
            self._copy_chosen(outcome.scenario_id, outcome.attempts[outcome.chosen])
        scores = [(_dumps(a.selector_scores), outcome.scenario_id, a.index) for a in outcome.attempts]
        row = (outcome.scenario_id, outcome.chosen, outcome.failure, outcome.stopped)
        with self._database.transaction() as database:
            database.executemany(
                "UPDATE attempts SET selector_scores = ? WHERE scenario_id = ? AND number = ?", scores
            )
            database.execute("INSERT INTO outcomes VALUES (?,?,?,?)", row)

    def opened(self, paths: Iterable[Path]) -> None:
        """Note files that the run opened: the record by which one sees that no reference was among them."""
        with self._database.transaction() as database:
            rows = [(str(path),) for path in paths]
            database.executemany("INSERT OR IGNORE INTO opened_files VALUES (?)", rows)

    def forget_failures(self) -> tuple[str, ...]:
        """Make failed scenarios pending again and return their ids; their finished attempts stay."""
        with self._database.transaction() as database:
            rows = database.execute("DELETE FROM outcomes WHERE failure IS NOT NULL RETURNING scenario_id")
            return tuple(sorted(scenario_id for (scenario_id,) in rows))

    def forget_takes(self, first: Mapping[str, int]) -> None:
        """Make these scenarios pending again, without the attempts from this number on: each rests on those
        before it."""
        with self._database.transaction() as database:
            for scenario_id, number in first.items():
                database.execute(
                    "DELETE FROM attempts WHERE scenario_id = ? AND number >= ?", (scenario_id, number)
                )
                database.execute("DELETE FROM outcomes WHERE scenario_id = ?", (scenario_id,))

    def restore_chosen(self) -> tuple[str, ...]:
        """Copy to `chosen/` again what is missing or changed there, and return the names."""
        changed, outcomes = self.changed_chosen(), self.outcomes()
        for scenario_id in changed:
            outcome = outcomes[scenario_id]
            assert outcome.chosen is not None, f"{scenario_id} chose nothing"
            self._copy_chosen(scenario_id, outcome.attempts[outcome.chosen])
        return tuple(path.name for path in changed.values())

    # Where things lie and what is known.

    def video_path(self, scenario_id: str, index: int) -> Path:
        """Where the video of an attempt belongs, relative to the folder; StoreError if that is outside."""
        path = Path(VIDEOS) / scenario_id / f"attempt-{index}.mp4"
        place_in(self.folder, path)
        return path

    def chosen_path(self, scenario_id: str) -> Path:
        """Where the chosen take of a scenario belongs. StoreError if that is outside of the run folder."""
        ((name,),) = self._database.rows("SELECT output_name FROM scenarios WHERE id = ?", (scenario_id,))
        return place_in(self.folder, Path(CHOSEN) / name)

    def unwritable(self, scenarios: Sequence[Scenario]) -> dict[str, str]:
        """Why nothing can be kept of a scenario, by id; RunLost where nothing can be written at all."""
        return unwritable(self.folder, scenarios)

    def video_digests(self) -> dict[tuple[str, int], str]:
        """sha256 of each take as it was stored, by scenario id and number; those of older runs are absent."""
        column = self._database.digest_column
        rows = self._database.rows(f"SELECT scenario_id, number, {column} FROM attempts")  # nosec B608
        return {(scenario_id, number): digest for scenario_id, number, digest in rows if digest is not None}

    def changed_takes(
        self, is_readable: Callable[[Path], bool] = Path.is_file
    ) -> dict[tuple[str, int], Path]:
        """Where the video should be of each attempt of which it is missing or is not the one that was stored.

        By scenario id and number. is_readable: asked of takes of older runs, of which no digest is known.
        """
        digests, found = self.video_digests(), {}
        for name, number, place in self._database.rows(
            "SELECT scenario_id, number, video_path FROM attempts ORDER BY scenario_id, number"
        ):
            video = place_in(self.folder, place)
            digest = digests.get((name, number))
            is_whole = video.is_file() and (
                is_readable(video) if digest is None else file_digest(video) == digest
            )
            if not is_whole:
                found[name, number] = video
        return found

    def changed_chosen(self) -> dict[str, Path]:
        """Where in `chosen/` a clip is missing or is not the chosen take, by scenario id."""
        digests, found = self.video_digests(), {}
        for outcome in self.outcomes().values():
            if outcome.chosen is None:
                continue
            clip = self.chosen_path(outcome.scenario_id)
            # without a digest, of older runs, who knows which one is right
            digest = digests.get((outcome.scenario_id, outcome.chosen))
            if not clip.is_file() or (digest is not None and file_digest(clip) != digest):
                found[outcome.scenario_id] = clip
        return found

    def damaged_takes(self, is_readable: Callable[[Path], bool] = Path.is_file) -> dict[str, int]:
        """The first of `changed_takes` by scenario id: what follows it rests on it."""
        found: dict[str, int] = {}
        for name, number in self.changed_takes(is_readable):
            found.setdefault(name, number)
        return found

    def scenarios(self) -> tuple[Scenario, ...]:
        rows = self._database.rows("SELECT * FROM scenarios ORDER BY position")
        return tuple(self._read(_read_scenario, row) for row in rows)

    def pending(self) -> tuple[Scenario, ...]:
        """Scenarios without an outcome, in order."""
        finished = {row[0] for row in self._database.rows("SELECT scenario_id FROM outcomes")}
        return tuple(scenario for scenario in self.scenarios() if scenario.id not in finished)

    def history(self, scenario_id: str) -> History:
        rows = self._database.rows("SELECT reply FROM plans WHERE scenario_id = ?", (scenario_id,))
        plan = self._read(_read_plan, rows[0]) if rows else None
        return History(plan=plan, attempts=self.attempts(scenario_id))

    def attempts(self, scenario_id: str) -> tuple[Attempt, ...]:
        columns = self._database.attempt_columns
        query = f"SELECT {columns} FROM attempts WHERE scenario_id = ? ORDER BY number"  # nosec B608
        rows = self._database.rows(query, (scenario_id,))
        found = tuple(self._read(_read_attempt, row) for row in rows)
        if [attempt.index for attempt in found] != list(range(len(found))):
            raise self._damaged(f"attempts of {scenario_id} are missing")
        return found

    def outcomes(self) -> dict[str, Outcome]:
        """By scenario id, in the order of the scenarios; unfinished ones are absent."""
        rows = self._database.rows(
            "SELECT o.scenario_id, o.chosen, o.failure, o.stopped FROM outcomes o"
            " JOIN scenarios s ON s.id = o.scenario_id ORDER BY s.position"
        )
        found = {}
        for scenario_id, chosen, failure, stopped in rows:
            attempts = self.attempts(scenario_id)
            if chosen is not None and chosen not in range(len(attempts)):
                raise self._damaged(f"{scenario_id} chose take {chosen!r} of {len(attempts)}")
            found[scenario_id] = Outcome(
                scenario_id=scenario_id, attempts=attempts, chosen=chosen, failure=failure, stopped=stopped
            )
        return found

    def opened_files(self) -> tuple[Path, ...]:
        rows = self._database.rows("SELECT path FROM opened_files ORDER BY path")
        return tuple(Path(path) for (path,) in rows)

    def _copy_chosen(self, scenario_id: str, attempt: Attempt) -> None:
        target = self.chosen_path(scenario_id)
        with writing(self.folder):
            with whole_file(target) as part:
                shutil.copyfile(place_in(self.folder, attempt.video_path), part)
            flush(target)

    def _check_places(self) -> None:
        """What a foreign store names is opened by whoever reads it: nothing of it lies elsewhere."""
        check_names(self.scenarios())
        for scenario in self.scenarios():
            self.chosen_path(scenario.id)
        for (place,) in self._database.rows("SELECT video_path FROM attempts"):
            place_in(self.folder, str(place))

    def _read(self, read: Callable[[tuple[Any, ...]], T], row: tuple[Any, ...]) -> T:
        try:
            return read(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(f"a row cannot be read: {type(error).__name__}: {error}") from error

    def _damaged(self, what: str) -> StoreError:
        return damaged(self.folder / DATABASE, what)


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _scenario_row(position: int, scenario: Scenario) -> tuple[object, ...]:
    clip = scenario.prefix
    return (
        position,
        scenario.id,
        scenario.text,
        scenario.category,
        scenario.output_name,
        str(clip.path),
        clip.fps,
        clip.num_frames,
        clip.width,
        clip.height,
    )


def _read_scenario(row: tuple[Any, ...]) -> Scenario:
    _, scenario_id, text, category, output_name, path, fps, num_frames, width, height = row
    words, sizes = (scenario_id, text, category, output_name, path), (num_frames, width, height)
    if not all(isinstance(word, str) for word in words) or not all(isinstance(size, int) for size in sizes):
        raise TypeError(f"scenario {scenario_id!r} holds {row!r}")
    return Scenario(
        id=scenario_id,
        text=text,
        category=category,
        output_name=output_name,
        prefix=Clip(path=Path(path), fps=float(fps), num_frames=num_frames, width=width, height=height),
    )


def _read_plan(row: tuple[Any, ...]) -> PlanReply:
    return plan_reply_from_dict(parse_json(row[0]))


def _read_attempt(row: tuple[Any, ...]) -> Attempt:
    number, prompt, video_path, critique, selector_scores, timings, round_number, sample = row
    return Attempt(
        index=number,
        prompt=prompt_from_dict(parse_json(prompt)),
        video_path=Path(video_path),
        critique=None if critique is None else critique_from_dict(parse_json(critique)),
        round=round_number,
        sample=sample,
        selector_scores=parse_json(selector_scores),
        timings=parse_json(timings),
    )
