"""The run folders on a disk: what is in each, and the removal of one.

Invariant: only what a run has made is removed; a dataset, or whatever else lies in its folder, stays.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.errors import StoreError
from engine.runs.folder import (
    CHOSEN,
    DATABASE,
    JOINED,
    LOCK,
    VIDEOS,
    WRITTEN_UNDER_LOCK,
    require_run,
    take_lock,
)
from engine.runs.log_file import LOG
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.requests import CONTROL
from engine.runs.store import RunStore
from engine.runs.trace_file import NOTES
from engine.runs.watch_page import WATCH
from kernels.files import is_part

OWN: Final = (
    *(
        VIDEOS,
        CHOSEN,
        JOINED,
        "report.html",
        "inspect.eval",
        "profile.svg",
        "scores.json",
        LOG,
        NOTES,
        CONTROL,
        WATCH,
    ),
    *(name for name in WRITTEN_UNDER_LOCK if name != DATABASE),
)
"""What a run and those who read it write there, but for store and lock, which go last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """`fault`: why the store cannot be read; then nothing else is known but its size."""

    folder: Path
    num_bytes: int  # of what the run has made
    started: str | None = None  # ISO 8601
    num_scenarios: int = 0
    num_done: int = 0
    num_failed: int = 0
    num_takes: int = 0
    num_scouts: int = 0
    fault: str | None = None

    @property
    def state(self) -> str:
        if self.fault is not None:
            return f"not readable: {self.fault}"
        pending = self.num_scenarios - self.num_done - self.num_failed
        said = [f"{pending} pending"] if pending else []
        said += [f"{self.num_failed} failed"] if self.num_failed else []
        return ", ".join(said) or "finished"


def runs_in(parent: Path) -> list[RunSummary]:
    """Of each run folder directly below `parent`, in the order in which they were started."""
    folders = parent.iterdir() if parent.is_dir() else ()
    found = [summary_of(folder) for folder in folders if (folder / DATABASE).is_file()]
    return sorted(found, key=lambda one: (one.started or "", one.folder.name))


def summary_of(folder: Path) -> RunSummary:
    """Of a run folder, or of what should be one."""
    num_bytes = sum(_sizes(folder))
    try:
        started = read_manifest(folder / MANIFEST).get("started")
        with RunStore.open(folder, read_only=True) as store:
            scenarios, outcomes = store.scenarios(), store.outcomes()
            num_takes = sum(len(store.attempts(scenario.id)) for scenario in scenarios)
            num_scouts = sum(store.scouts.counts().values())
    except StoreError as error:
        return RunSummary(folder=folder, num_bytes=num_bytes, fault=error.problem)
    failed = sum(outcome.failure is not None for outcome in outcomes.values())
    return RunSummary(
        folder=folder,
        num_bytes=num_bytes,
        started=started if isinstance(started, str) else None,
        num_scenarios=len(scenarios),
        num_done=len(outcomes) - failed,
        num_failed=failed,
        num_takes=num_takes,
        num_scouts=num_scouts,
    )


def remove_run(folder: Path) -> list[str]:
    """Remove what the run has made, and the folder if nothing else is in it; the names of what stays.

    StoreError where it is no run, or another process writes it. One that is interrupted can be repeated.
    """
    require_run(folder)
    folder = folder.resolve()
    lock = take_lock(folder)
    try:
        for name in OWN:
            _remove(folder / name)
        for path in filter(is_part, list(folder.iterdir())):
            path.unlink()
        for suffix in ("-wal", "-shm", "-journal", ""):
            _remove(folder / f"{DATABASE}{suffix}")
        _remove(folder / LOCK)
        stays = sorted(path.name for path in folder.iterdir())
        if not stays:
            folder.rmdir()
    finally:
        lock.close()
    return stays


def _remove(path: Path) -> None:
    """A link is removed, never what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sizes(folder: Path) -> Iterator[int]:
    for name in (*OWN, DATABASE, f"{DATABASE}-wal"):
        path = folder / name
        files = [path]
        if path.is_dir() and not path.is_symlink():
            files = [Path(parent, one) for parent, _, names in os.walk(path) for one in names]
        yield from (file.lstat().st_size for file in files if file.is_file())
