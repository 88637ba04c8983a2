"""The information boundary: what the loop opens of a dataset is recorded, and a reference is refused.

An audit hook sees every file that Python opens, and `video.files` announces those that PyAV opens; no other
module opens a video natively (a test reads the source). Of files elsewhere only videos are recorded.
Invariant: while a watch has an allow-list, no other video below the dataset is opened.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import BoundaryError, ConfigError
from engine.runs.folder import VIDEOS
from engine.video.containers import OPEN_EVENT

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif"})
_CODE_SUFFIXES = frozenset({".py", ".pyc", ".so"})  # imported late, if the dataset is the working folder


class Watch:
    """What was opened below `dataset`, and which videos elsewhere, but for those below `own`."""

    def __init__(self, dataset: Path, own: Path, allowed: Collection[Path] | None) -> None:
        self._dataset, self._own = _real(dataset), _real(own)
        self._allowed = None if allowed is None else {_real(path) for path in allowed}
        self._opened: dict[str, None] = {}  # a dict keeps the order and is safe to grow from several threads
        self._untold: deque[str] = deque()

    def paths(self) -> tuple[Path, ...]:
        """In the order of the first opening."""
        return tuple(Path(path) for path in self._opened.copy())

    def new_paths(self) -> tuple[Path, ...]:
        """Those that were opened since the last call, so that noting all of a long run is linear."""
        return tuple(Path(self._untold.popleft()) for _ in range(len(self._untold)))

    def note(self, path: str, *, video: bool) -> None:
        real = _real(path)
        in_dataset = _below(real, self._dataset)
        # A run folder in the dataset is the run's own; a dataset in the run folder is a dataset all the same.
        if _below(real, self._own) and not (in_dataset and _below(self._dataset, self._own)):
            return
        suffix = os.path.splitext(real)[1].lower()
        video = video or suffix in VIDEO_SUFFIXES
        if in_dataset and video and self._allowed is not None and real not in self._allowed:
            raise BoundaryError(
                f"the loop was about to open {path}, which is not the prefix of one of its scenarios",
                fix="let generators, critics and selectors read the prefix and the takes only",
            )
        wanted = video or (in_dataset and suffix not in _CODE_SUFFIXES)
        if wanted and real not in self._opened:
            self._opened[real] = None
            self._untold.append(real)


def require_apart(dataset: Path, own: Path) -> None:
    """ConfigError where takes of the run `own` would lie in the dataset, so that none could be opened."""
    if _below(_real(own / VIDEOS), _real(dataset)) and _below(_real(dataset), _real(own)):
        raise ConfigError(
            f"{own} is to hold the run, but its videos would lie among the clips of {dataset}",
            fix="choose another folder with --out; one within the dataset is as good as any",
        )


@contextmanager
def watch(dataset: Path, *, own: Path, allowed: Collection[Path] | None = None) -> Iterator[Watch]:
    """Record what this process opens; with `allowed`, BoundaryError for any other video below `dataset`."""
    _install()
    entry = Watch(dataset, own, allowed)
    _WATCHES.append(entry)
    try:
        yield entry
    finally:
        _WATCHES.remove(entry)


_WATCHES: list[Watch] = []
_INSTALLED: list[bool] = []


def _install() -> None:
    """Once in a process: an audit hook cannot be taken away again."""
    if not _INSTALLED:
        _INSTALLED.append(True)
        sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _WATCHES or event not in ("open", OPEN_EVENT):
        return
    path = arguments[0]
    if isinstance(path, (str, bytes, os.PathLike)):  # else a descriptor, seen when it was made from a path
        for entry in tuple(_WATCHES):
            entry.note(os.fsdecode(path), video=event == OPEN_EVENT)


def _real(path: str | Path) -> str:
    return os.path.realpath(path)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
