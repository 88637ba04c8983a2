"""The facts of a run that goes on, as the report has them: read again is only what changed since.

Opens the store to read it. A store that was replaced is opened anew; a run that writes is never held up.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engine.errors import StoreError
from engine.report.run_data import Record, ReportData, Scores, bare_record
from engine.report.write import SCORES, StoredRecords, scores_of
from engine.runs.folder import DATABASE
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.types import Request

FILES = (DATABASE, f"{DATABASE}-wal", SCORES, MANIFEST)
"""What the facts are read from: unchanged files need not be read again."""

Identity = tuple[int, int, int] | None
"""Of a file at a moment: inode, size, time of the last write; None without one."""


def identity(path: Path) -> Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Records:
    """`read` brings `bare` up to date: one record a scenario, without what models read and wrote."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.bare: list[Record] = []
        self.latest: list[tuple[int, int]] = []
        """Place of the scenario and number of the takes that were stored last, the last one first."""
        self.num_reads = 0
        """How often anything was there to read."""
        self._store: RunStore | None = None
        self._stored: StoredRecords | None = None
        self._inode: int | None = None
        self._files: tuple[Identity, ...] = ()
        self._states: dict[str, tuple[object, ...]] = {}
        self._places: dict[str, int] = {}
        self._requests: tuple[Request, ...] = ()
        self._scores: Scores | None = None
        self._is_stale = False
        self._manifest: Mapping[str, Any] = {}

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store, self._stored, self._files = None, None, ()

    def read(self, num_latest: int) -> set[int]:
        """Places of the scenarios of which anything changed. StoreError, ScorerError as of the report."""
        files = tuple(identity(self.run / name) for name in FILES)
        if files == self._files:
            return set()
        with ExitStack() as refused:
            refused.callback(self.close)  # what is not read whole is read anew
            store = self._opened(files[0])
            states = store.overview.states()
            changed = {
                place
                for name, place in self._places.items()
                if place >= len(self.bare) or states.get(name) != self._states.get(name)
            }
            assert self._stored is not None, "it is made with the store"
            self.bare += [None] * (len(self._places) - len(self.bare))  # type: ignore[list-item] # filled below
            for place in changed:
                self.bare[place] = bare_record(self._stored[place])
            self.latest = [
                (self._places[name], take) for name, take in store.overview.latest_takes(num_latest)
            ]
            self._requests = store.requests.all()
            self._scores, self._is_stale = scores_of(self.run, store)
            self._manifest = read_manifest(self.run / MANIFEST)
            refused.pop_all()
        self._states, self._files = states, files
        self.num_reads += 1
        return changed

    def data(self) -> ReportData:
        return ReportData(
            run=self.run,
            records=self.bare,
            scores=self._scores,
            has_stale_scores=self._is_stale,
            requests=self._requests,
            prefix_digests=self._manifest.get("prefixes", {}),
            manifest=self._manifest,
        )

    def whole(self, place: int) -> Record | None:
        """All of one scenario; None while the store cannot be read."""
        return None if self._stored is None else self._stored[place]

    def _opened(self, file: Identity) -> RunStore:
        if file is None:
            raise StoreError(f"{self.run} is no run folder any more", fix="stop this page")
        if self._store is None or file[0] != self._inode:
            self.close()
            self._store = RunStore.open(self.run, read_only=True)
            self._stored, self._inode = StoredRecords(self._store), file[0]
            self._places = {one.id: place for place, one in enumerate(self._store.scenarios())}
            self.bare, self._states = [], {}
        return self._store
