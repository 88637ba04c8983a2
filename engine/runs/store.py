"""The run folder: one SQLite file (WAL) beside the videos; a killed run loses no finished attempt.

Knows no model and no codec: others write each video, before its row. Invariant: a committed attempt has its
video on disk. A video without a row is of no account and is overwritten on resume.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from engine.errors import StoreError
from engine.runs.from_json import critique_from_dict, plan_reply_from_dict, prompt_from_dict
from engine.types import (
    Attempt,
    Clip,
    History,
    Outcome,
    PlanReply,
    Scenario,
)
from kernels.files import whole_file

SCHEMA_VERSION = 2
DATABASE = "run.sqlite"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE scenarios (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, category TEXT NOT NULL,
    output_name TEXT NOT NULL UNIQUE, prefix_path TEXT NOT NULL, prefix_fps REAL NOT NULL,
    prefix_num_frames INTEGER NOT NULL, prefix_width INTEGER NOT NULL, prefix_height INTEGER NOT NULL);
CREATE TABLE plans (scenario_id TEXT PRIMARY KEY REFERENCES scenarios (id), reply TEXT NOT NULL);
CREATE TABLE attempts (
    scenario_id TEXT NOT NULL REFERENCES scenarios (id), number INTEGER NOT NULL, prompt TEXT NOT NULL,
    video_path TEXT NOT NULL, critique TEXT, selector_scores TEXT NOT NULL, timings TEXT NOT NULL,
    round INTEGER NOT NULL, sample INTEGER NOT NULL,
    PRIMARY KEY (scenario_id, number));
CREATE TABLE outcomes (
    scenario_id TEXT PRIMARY KEY REFERENCES scenarios (id), chosen INTEGER, failure TEXT, stopped TEXT,
    CHECK ((chosen IS NULL) <> (failure IS NULL)));
CREATE TABLE opened_files (path TEXT PRIMARY KEY);
"""

_ATTEMPT = "number, prompt, video_path, critique, selector_scores, timings, round, sample"
_ATTEMPT_1 = "number, prompt, video_path, critique, selector_scores, timings, number, 0"
"""Of version 1, in which each round had one take."""

_UPGRADE_1 = """
BEGIN;
ALTER TABLE attempts ADD COLUMN round INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN sample INTEGER NOT NULL DEFAULT 0;
UPDATE attempts SET round = number;
UPDATE meta SET value = '2' WHERE key = 'schema_version';
COMMIT;
"""


class RunStore:
    """The record of one run, and the scheduler's sink. One process writes; others may read meanwhile."""

    def __init__(self, folder: Path, database: sqlite3.Connection, lock: IO[bytes] | None) -> None:
        self.folder = folder
        self._database = database
        self._lock = lock
        self._attempt_columns = _ATTEMPT

    @classmethod
    def claim(cls, folder: Path, scenarios: Sequence[Scenario]) -> IO[bytes]:
        """The lock of a run folder that is about to be made; held until closed.

        StoreError if there is a run, another process writes one, two scenarios share a name, or the folder
        cannot be written or locked. Nothing of another run is touched.
        """
        _check_names(scenarios)
        if not (folder / DATABASE).exists():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{folder} cannot be made: {error.strerror}", fix="choose another folder with --out"
                ) from error
            lock = _take_lock(folder)
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
        path, lock = folder / DATABASE, claim or cls.claim(folder, scenarios)
        for scenario in scenarios:
            (folder / "videos" / scenario.id).mkdir(parents=True, exist_ok=True)
        (folder / "chosen").mkdir(parents=True, exist_ok=True)
        # Built under another name: a process killed here leaves no half-made run.sqlite behind.
        with whole_file(path) as partial:
            database = sqlite3.connect(partial)
            with database:
                database.executescript(f"BEGIN;{_SCHEMA}")
                database.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
                rows = [_scenario_row(position, scenario) for position, scenario in enumerate(scenarios)]
                database.executemany("INSERT INTO scenarios VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
            database.close()
        return cls(folder, _connect(path), lock)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> RunStore:
        """An existing run folder; StoreError if there is none, it is newer, in use, or a video is missing.

        Read-only opening takes no lock and does not look for the videos.
        """
        path = folder / DATABASE
        if not path.is_file():
            raise StoreError(
                f"{folder} is not a run folder: it holds no {DATABASE}", fix="name the folder given as --out"
            )
        lock = None if read_only else _take_lock(folder)
        store = cls(folder, _connect(path, read_only=read_only), lock)
        if store._check_version() == 1:
            if read_only:
                store._attempt_columns = _ATTEMPT_1
            else:
                store._database.executescript(_UPGRADE_1)
        if not read_only:
            store._check_videos()
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
        with self._database as database:
            database.execute("INSERT INTO plans VALUES (?, ?)", (scenario_id, _dumps(asdict(reply))))

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        """Record a take whose video lies at `attempt.video_path` already."""
        _flush(self.folder / attempt.video_path)
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
        )
        with self._database as database:
            database.execute(
                f"INSERT INTO attempts (scenario_id, {_ATTEMPT}) VALUES (?,?,?,?,?,?,?,?,?)", row
            )

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        """Add the critique to a take that was recorded without one."""
        assert attempt.critique is not None, f"take {attempt.index} of {scenario_id} was not judged"
        row = (_dumps(asdict(attempt.critique)), _dumps(attempt.timings), scenario_id, attempt.index)
        with self._database as database:
            database.execute(
                "UPDATE attempts SET critique = ?, timings = ? WHERE scenario_id = ? AND number = ?", row
            )

    def outcome(self, outcome: Outcome) -> None:
        """Copy the chosen take to `chosen/`, then record the outcome and the selectors' scores."""
        if outcome.chosen is not None:
            self._copy_chosen(outcome.scenario_id, outcome.attempts[outcome.chosen])
        scores = [(_dumps(a.selector_scores), outcome.scenario_id, a.index) for a in outcome.attempts]
        row = (outcome.scenario_id, outcome.chosen, outcome.failure, outcome.stopped)
        with self._database as database:
            database.executemany(
                "UPDATE attempts SET selector_scores = ? WHERE scenario_id = ? AND number = ?", scores
            )
            database.execute("INSERT INTO outcomes VALUES (?,?,?,?)", row)

    def opened(self, paths: Iterable[Path]) -> None:
        """Note files that the run opened: the record by which one sees that no reference was among them."""
        with self._database as database:
            rows = [(str(path),) for path in paths]
            database.executemany("INSERT OR IGNORE INTO opened_files VALUES (?)", rows)

    def forget_failures(self) -> tuple[str, ...]:
        """Make failed scenarios pending again and return their ids; their finished attempts stay."""
        with self._database as database:
            rows = database.execute("DELETE FROM outcomes WHERE failure IS NOT NULL RETURNING scenario_id")
            return tuple(sorted(scenario_id for (scenario_id,) in rows))

    # Where things lie and what is known.

    def video_path(self, scenario_id: str, index: int) -> Path:
        """Where the video of an attempt belongs, relative to the run folder; its folder exists."""
        return Path("videos") / scenario_id / f"attempt-{index}.mp4"

    def scenarios(self) -> tuple[Scenario, ...]:
        return tuple(
            _read_scenario(row) for row in self._database.execute("SELECT * FROM scenarios ORDER BY position")
        )

    def pending(self) -> tuple[Scenario, ...]:
        """Scenarios without an outcome, in order."""
        finished = {row[0] for row in self._database.execute("SELECT scenario_id FROM outcomes")}
        return tuple(scenario for scenario in self.scenarios() if scenario.id not in finished)

    def history(self, scenario_id: str) -> History:
        row = self._database.execute(
            "SELECT reply FROM plans WHERE scenario_id = ?", (scenario_id,)
        ).fetchone()
        plan = None if row is None else plan_reply_from_dict(json.loads(row[0]))
        return History(plan=plan, attempts=self.attempts(scenario_id))

    def attempts(self, scenario_id: str) -> tuple[Attempt, ...]:
        rows = self._database.execute(
            f"SELECT {self._attempt_columns} FROM attempts WHERE scenario_id = ? ORDER BY number",
            (scenario_id,),
        )
        return tuple(_read_attempt(row) for row in rows)

    def outcomes(self) -> dict[str, Outcome]:
        """By scenario id, in the order of the scenarios; unfinished ones are absent."""
        rows = self._database.execute(
            "SELECT o.* FROM outcomes o JOIN scenarios s ON s.id = o.scenario_id ORDER BY s.position"
        )
        return {
            scenario_id: Outcome(
                scenario_id=scenario_id,
                attempts=self.attempts(scenario_id),
                chosen=chosen,
                failure=failure,
                stopped=stopped,
            )
            for scenario_id, chosen, failure, stopped in rows.fetchall()
        }

    def opened_files(self) -> tuple[Path, ...]:
        rows = self._database.execute("SELECT path FROM opened_files ORDER BY path")
        return tuple(Path(path) for (path,) in rows)

    def _copy_chosen(self, scenario_id: str, attempt: Attempt) -> None:
        (name,) = self._database.execute(
            "SELECT output_name FROM scenarios WHERE id = ?", (scenario_id,)
        ).fetchone()
        target = self.folder / "chosen" / name
        with whole_file(target) as part:
            shutil.copyfile(self.folder / attempt.video_path, part)
        _flush(target)

    def _check_version(self) -> int:
        try:
            (value,) = self._database.execute("SELECT value FROM meta WHERE key='schema_version'").fetchone()
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.folder / DATABASE} is not a run store: {error}", fix="name the folder given as --out"
            ) from error
        if int(value) > SCHEMA_VERSION:
            raise StoreError(
                f"{self.folder} has schema version {value}; this retake reads up to version {SCHEMA_VERSION}",
                fix="use the retake that made this run, or a newer one",
            )
        return int(value)

    def _check_videos(self) -> None:
        rows = self._database.execute("SELECT video_path FROM attempts ORDER BY scenario_id, number")
        missing = [path for (path,) in rows if not (self.folder / path).is_file()]
        if missing:
            raise StoreError(
                f"{self.folder} records {len(missing)} attempt(s) whose video is missing, first {missing[0]}",
                fix="put the file(s) back, or start a new run with another --out",
            )


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
    return Scenario(
        id=scenario_id,
        text=text,
        category=category,
        output_name=output_name,
        prefix=Clip(path=Path(path), fps=fps, num_frames=num_frames, width=width, height=height),
    )


def _read_attempt(row: tuple[Any, ...]) -> Attempt:
    number, prompt, video_path, critique, selector_scores, timings, round_number, sample = row
    return Attempt(
        index=number,
        prompt=prompt_from_dict(json.loads(prompt)),
        video_path=Path(video_path),
        critique=None if critique is None else critique_from_dict(json.loads(critique)),
        round=round_number,
        sample=sample,
        selector_scores=json.loads(selector_scores),
        timings=json.loads(timings),
    )


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}", uri=True)
    if not read_only:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.DatabaseError:
            return database  # not a database: `_check_version` says so with the fix
        # FULL, not NORMAL: a commit costs milliseconds and records minutes of GPU time, so it shall survive
        # a power cut as well as a killed process.
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
    return database


def _take_lock(folder: Path) -> IO[bytes]:
    """Held until closed; the kernel frees it when the process dies, however it dies."""
    lock = None
    try:
        lock = (folder / "run.lock").open("ab")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if lock is not None:
            lock.close()
        if isinstance(error, BlockingIOError):
            raise StoreError(
                f"{folder} is being written by another process", fix="wait for it to end, or stop it"
            ) from error
        raise StoreError(
            f"{folder} cannot be locked: {error.strerror}",
            fix="give a folder that you may write, on a disk with file locks (some network disks have none)",
        ) from error
    return lock


def _check_names(scenarios: Sequence[Scenario]) -> None:
    for names, what in (
        ([s.id for s in scenarios], "scenario id"),
        ([s.output_name for s in scenarios], "output name"),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                raise StoreError(f"{what} {name!r} occurs twice", fix="give every scenario its own name")
            if name in ("", ".", "..") or Path(name).name != name:
                raise StoreError(
                    f"{what} {name!r} cannot be a file name", fix="use a name without path separators"
                )


def _flush(path: Path) -> None:
    """Force a file and its directory entry to disk, so that no row can outlive its video."""
    for target in (path, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
