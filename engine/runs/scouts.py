"""The scouts of a run: their rows in the store, and the previews that lie beside the takes.

Knows no loop. Invariants: a recorded scout had its preview on disk; what was compared of it is recorded with
all others of its stage, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.runs.database import SCOUT_COLUMNS, Database, damaged
from engine.runs.folder import DATABASE, flush, place_in, writing
from engine.runs.rows import dumps, read_scout, scout_row
from engine.types import Scout
from kernels.files import file_digest

_OF_UNFINISHED = (
    "(NOT EXISTS (SELECT 1 FROM outcomes WHERE scenario_id = scouts.scenario_id AND chosen IS NOT NULL)"
    " AND round >= (SELECT COALESCE(MAX(round), 0) FROM attempts WHERE scenario_id = scouts.scenario_id))"
)
"""Of the last round of a scenario that has no clip yet."""


class ScoutTable:
    """The scouts that a store has recorded."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder

    def add(self, scenario_id: str, scout: Scout, digest: str | None = None) -> None:
        """One whose preview lies at `scout.video_path` already; with `digest`, it did when it was made."""
        preview = place_in(self._folder, scout.video_path)
        if digest is None:
            with writing(self._folder):
                flush(preview)
            digest = file_digest(preview)
        row = scout_row(scenario_id, scout, digest)
        columns, marks = f"scenario_id, {SCOUT_COLUMNS}, video_sha256", ",".join("?" * len(row))
        with self._database.transaction() as database:
            database.execute(f"INSERT OR REPLACE INTO scouts ({columns}) VALUES ({marks})", row)  # nosec B608

    def rank(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        """Scores and places of all of one stage."""
        rows = [(dumps(s.scores), s.place, int(s.kept), scenario_id, s.number) for s in scouts]
        with self._database.transaction() as database:
            database.executemany(
                "UPDATE scouts SET scores = ?, place = ?, kept = ? WHERE scenario_id = ? AND number = ?", rows
            )

    def of(self, scenario_id: str) -> tuple[Scout, ...]:
        """In the order in which they were made."""
        table = self._database.scouts
        query = f"SELECT {SCOUT_COLUMNS} FROM {table} WHERE scenario_id = ? ORDER BY number"  # nosec B608
        try:
            return tuple(read_scout(row) for row in self._database.rows(query, (scenario_id,)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"a scout of {scenario_id} cannot be read: {type(error).__name__}: {error}"
            raise damaged(self._folder / DATABASE, why) from error

    def counts(self) -> Mapping[str, int]:
        """How many there are, by scenario id."""
        table = self._database.scouts
        query = f"SELECT scenario_id, COUNT(*) FROM {table} GROUP BY scenario_id"  # nosec B608
        return dict(self._database.rows(query))

    def digests(self) -> dict[tuple[str, int], str]:
        """sha256 of each preview as it was stored, by scenario id and number."""
        rows = self._database.rows(f"SELECT scenario_id, number, video_sha256 FROM {self._database.scouts}")  # nosec B608
        return {(scenario_id, number): digest for scenario_id, number, digest in rows}

    def paths(self) -> list[str]:
        return [
            str(path) for (path,) in self._database.rows(f"SELECT video_path FROM {self._database.scouts}")
        ]  # nosec B608

    def forget_changed(self, *, for_restarts: bool) -> list[tuple[str, int]]:
        """Have those made again that are still to be looked at, and whose preview is gone or another one: not
        compared yet, or `for_restarts` to say where a take is to be made anew."""
        query = "SELECT scenario_id, number, video_path, video_sha256 FROM scouts WHERE place IS NULL"
        if for_restarts:
            query += f" OR {_OF_UNFINISHED}"
        found = []
        for scenario_id, number, path, digest in self._database.rows(query):
            preview = place_in(self._folder, path)
            if not preview.is_file() or file_digest(preview) != digest:
                found.append((scenario_id, number))
        self._forget(found)
        return found

    def forget_behind(self, first: Mapping[str, int]) -> None:
        """Those of rounds that rest on a take: by scenario id, the number of the first take that is gone."""
        found = []
        for scenario_id, take in first.items():
            found += self._database.rows(
                "SELECT scenario_id, number FROM scouts WHERE scenario_id = ? AND round >"
                " (SELECT round FROM attempts WHERE scenario_id = ? AND number = ?)",
                (scenario_id, scenario_id, take),
            )
        self._forget([(scenario_id, number) for scenario_id, number in found])

    def _forget(self, scouts: Sequence[tuple[str, int]]) -> None:
        if scouts:
            with self._database.transaction() as database:
                database.executemany("DELETE FROM scouts WHERE scenario_id = ? AND number = ?", scouts)
