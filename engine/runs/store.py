"""The run folder: one SQLite file (WAL) beside the videos; a killed run loses no finished attempt.

Knows no model and no codec: others write each video, before its row. Invariants: a committed attempt has its
video on disk, and a take whose file is not the one that was stored is told before it is used. A video without
a row is of no account and is overwritten on resume.
"""

from __future__ import annotations

import shutil
import sqlite3
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
    place_of_take,
    remove_parts,
    require_run,
    take_lock,
    unwritable,
    writing,
)
from engine.runs.overview import Overview
from engine.runs.requests import RequestTable
from engine.runs.rows import dumps, read_attempt, read_plan, read_scenario, scenario_row
from engine.runs.scouts import ScoutTable
from engine.types import SKIPPED, Attempt, History, Outcome, PlanReply, Scenario, Scout
from engine.words import command_line
from kernels.files import file_digest, whole_file

T = TypeVar("T")


class RunStore:
    """The record of one run, and the scheduler's sink. One process writes; others may read meanwhile."""

    def __init__(self, folder: Path, database: Database, lock: IO[bytes] | None) -> None:
        self.folder = folder
        self._database = database
        self._lock = lock
        self.requests = RequestTable(database, folder)
        self.overview = Overview(database)
        self.scouts = ScoutTable(database, folder)

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
            fix=f"continue it with `{command_line('retake', 'resume', folder)}`, "
            "or choose another folder with --out",
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
        rows = [scenario_row(position, scenario) for position, scenario in enumerate(scenarios)]
        return cls(folder, Database.create(folder / DATABASE, rows), lock)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> RunStore:
        """An existing run folder. StoreError: there is none, it is newer, damaged, in use, or names a file
        outside of it.

        Read-only opening takes no lock. Else what killed writers left half written is removed.
        """
        require_run(folder)
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
            database.execute("INSERT INTO plans VALUES (?, ?)", (scenario_id, dumps(asdict(reply))))

    def scout(self, scenario_id: str, scout: Scout) -> None:
        self.scouts.add(scenario_id, scout)

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        self.scouts.rank(scenario_id, scouts)

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        """Record a take whose video lies at `attempt.video_path` already."""
        video = place_in(self.folder, attempt.video_path)
        with writing(self.folder):
            flush(video)
        row = (
            scenario_id,
            attempt.index,
            dumps(asdict(attempt.prompt)),
            attempt.video_path.as_posix(),
            None if attempt.critique is None else dumps(asdict(attempt.critique)),
            dumps(attempt.selector_scores),
            dumps(attempt.timings),
            attempt.round,
            attempt.sample,
            attempt.device,
            file_digest(video),
        )
        with self._database.transaction() as database:
            columns = f"scenario_id, {ATTEMPT_COLUMNS}, video_sha256"
            marks = ",".join("?" * len(row))
            database.execute(f"INSERT INTO attempts ({columns}) VALUES ({marks})", row)  # nosec B608

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        """Add the critique to a take that was recorded without one."""
        assert attempt.critique is not None, f"take {attempt.index} of {scenario_id} was not judged"
        row = (dumps(asdict(attempt.critique)), dumps(attempt.timings), scenario_id, attempt.index)
        with self._database.transaction() as database:
            database.execute(
                "UPDATE attempts SET critique = ?, timings = ? WHERE scenario_id = ? AND number = ?", row
            )

    def outcome(self, outcome: Outcome) -> None:
        """Copy the chosen take to `chosen/`, then record the outcome and the selectors' scores.

        A choice of the user's is kept: one that the outcome brings, or that was made before takes were
        forgotten.
        """
        for (take,) in self._database.rows(
            "SELECT take FROM choices WHERE scenario_id = ?", (outcome.scenario_id,)
        ):
            outcome = outcome.with_take(take) if take < len(outcome.attempts) else outcome
        self._place_chosen(outcome)
        own = outcome.own
        scores = [(dumps(a.selector_scores), outcome.scenario_id, a.index) for a in outcome.attempts]
        row = (own.scenario_id, own.chosen, own.failure, own.stopped)
        with self._database.transaction() as database:
            database.executemany(
                "UPDATE attempts SET selector_scores = ? WHERE scenario_id = ? AND number = ?", scores
            )
            database.execute("INSERT INTO outcomes VALUES (?,?,?,?)", row)
            _record_choice(database, outcome)

    def choose(self, outcome: Outcome) -> None:
        """Copy the take that the user chose to `chosen/`, then record the choice; or undo both.

        outcome: of this store, as `Outcome.with_take` or `Outcome.own` gives it.
        """
        self._place_chosen(outcome)
        with self._database.transaction() as database:
            _record_choice(database, outcome)

    def opened(self, paths: Iterable[Path]) -> None:
        """Note files that the run opened: the record by which one sees that no reference was among them.

        Costs as much as the files that it is given: give those that were not noted yet.
        """
        rows = [(str(path),) for path in paths]
        if not rows:  # a transaction waits for the disk
            return
        with self._database.transaction() as database:
            database.executemany("INSERT OR IGNORE INTO opened_files VALUES (?)", rows)

    def forget_failures(self) -> tuple[str, ...]:
        """Make failed scenarios pending again and return their ids; their finished attempts stay.

        One of which the user chose a take, or that the user skipped, is settled.
        """
        with self._database.transaction() as database:
            rows = database.execute(
                "DELETE FROM outcomes WHERE failure IS NOT NULL AND stopped IS NOT ?"
                " AND scenario_id NOT IN (SELECT scenario_id FROM choices) RETURNING scenario_id",
                (SKIPPED,),
            )
            return tuple(sorted(scenario_id for (scenario_id,) in rows))

    def forget_takes(self, first: Mapping[str, int]) -> None:
        """Make these scenarios pending again, without the attempts from this number on: each rests on those
        before it. A choice of the user's stays, for the take that is made again under its number."""
        self.scouts.forget_behind(first)
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
            self._place_chosen(outcomes[scenario_id])
        return tuple(path.name for path in changed.values())

    # Where things lie and what is known.

    def video_path(self, scenario_id: str, index: int) -> Path:
        """Where the video of an attempt belongs, relative to the folder; StoreError if that is outside."""
        return place_of_take(self.folder, scenario_id, index)

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
        self, is_readable: Callable[[Path], bool] = Path.is_file, *, only: tuple[str, int] | None = None
    ) -> dict[tuple[str, int], Path]:
        """Where the video should be of each attempt of which it is missing or is not the one that was stored.

        By scenario id and number. is_readable: asked of takes of older runs, of which no digest is known.
        only: the one take to look at.
        """
        digests, found = self.video_digests(), {}
        for name, number, place in self._database.rows(
            "SELECT scenario_id, number, video_path FROM attempts ORDER BY scenario_id, number"
        ):
            if only is not None and only != (name, number):
                continue
            video = self.folder / place  # inside of it, as every place was found when the store was opened
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
        return tuple(self._read(read_scenario, row) for row in rows)

    def pending(self) -> tuple[Scenario, ...]:
        """Scenarios without an outcome, in order."""
        finished = self.requests.ended()
        return tuple(scenario for scenario in self.scenarios() if scenario.id not in finished)

    def history(self, scenario_id: str) -> History:
        rows = self._database.rows("SELECT reply FROM plans WHERE scenario_id = ?", (scenario_id,))
        plan = self._read(read_plan, rows[0]) if rows else None
        return History(plan=plan, attempts=self.attempts(scenario_id), scouts=self.scouts.of(scenario_id))

    def attempts(self, scenario_id: str) -> tuple[Attempt, ...]:
        columns = self._database.attempt_columns
        query = f"SELECT {columns} FROM attempts WHERE scenario_id = ? ORDER BY number"  # nosec B608
        rows = self._database.rows(query, (scenario_id,))
        found = tuple(self._read(read_attempt, row) for row in rows)
        if [attempt.index for attempt in found] != list(range(len(found))):
            raise self._damaged(f"attempts of {scenario_id} are missing")
        return found

    def outcomes(self) -> dict[str, Outcome]:
        """By scenario id, in the order of the scenarios; unfinished ones are absent."""
        rows = self._database.rows(
            f"{self.overview.outcome_query} JOIN scenarios s ON s.id = o.scenario_id ORDER BY s.position"
        )
        return {row[0]: self._outcome(row, self.attempts(row[0])) for row in rows}

    def outcome_of(self, scenario_id: str, attempts: tuple[Attempt, ...]) -> Outcome | None:
        """Of one scenario whose attempts these are; None where it is unfinished."""
        rows = self._database.rows(f"{self.overview.outcome_query} WHERE o.scenario_id = ?", (scenario_id,))
        return self._outcome(rows[0], attempts) if rows else None

    def _outcome(self, row: tuple[Any, ...], attempts: tuple[Attempt, ...]) -> Outcome:
        scenario_id, chosen, failure, stopped, users = row
        if any(take is not None and take not in range(len(attempts)) for take in (chosen, users)):
            raise self._damaged(f"{scenario_id} chose take {chosen!r} or {users!r} of {len(attempts)}")
        own = Outcome(
            scenario_id=scenario_id, attempts=attempts, chosen=chosen, failure=failure, stopped=stopped
        )
        return own if users is None else own.with_take(users)

    def opened_files(self) -> tuple[Path, ...]:
        rows = self._database.rows("SELECT path FROM opened_files ORDER BY path")
        return tuple(Path(path) for (path,) in rows)

    def _place_chosen(self, outcome: Outcome) -> None:
        """The chosen take in `chosen/`, or none."""
        target = self.chosen_path(outcome.scenario_id)
        if outcome.chosen is None:
            target.unlink(missing_ok=True)
            return
        attempt = outcome.attempts[outcome.chosen]
        with writing(self.folder):
            with whole_file(target) as part:
                shutil.copyfile(place_in(self.folder, attempt.video_path), part)
            flush(target)

    def _check_places(self) -> None:
        """What a foreign store names is opened by whoever reads it: nothing of it lies elsewhere."""
        check_names(self.scenarios())
        for scenario in self.scenarios():
            self.chosen_path(scenario.id)
        takes = [str(place) for (place,) in self._database.rows("SELECT video_path FROM attempts")]
        for place in (*takes, *self.scouts.paths()):
            place_in(self.folder, place)

    def _read(self, read: Callable[[tuple[Any, ...]], T], row: tuple[Any, ...]) -> T:
        try:
            return read(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(f"a row cannot be read: {type(error).__name__}: {error}") from error

    def _damaged(self, what: str) -> StoreError:
        return damaged(self.folder / DATABASE, what)


def _record_choice(database: sqlite3.Connection, outcome: Outcome) -> None:
    database.execute("DELETE FROM choices WHERE scenario_id = ?", (outcome.scenario_id,))
    if outcome.overruled is not None:
        database.execute("INSERT INTO choices VALUES (?,?)", (outcome.scenario_id, outcome.chosen))
