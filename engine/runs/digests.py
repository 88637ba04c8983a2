"""SHA-256 of files, remembered between runs, so that weights and datasets of many gigabytes are read once.

A digest is believed only while the file's size, inode and both times are what they were. A file that changed
within the last seconds is not remembered: a second change could leave all of these as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kernels.files import file_digest, whole_file

_SETTLED_NS = 3_000_000_000  # coarse file systems keep times to 2 s
MOST_READERS = 8
"""Hashing runs at 1 to 2 GB/s a core, a page cache or a fast disk gives several times that."""


@dataclass(frozen=True, slots=True)
class FileDigests:
    """`folder` holds one small file per path; None remembers nothing."""

    folder: Path | None

    def digest(self, path: Path) -> str:
        """Of the content, in hex. Raises OSError when the file cannot be read."""
        before = _stamp(path)
        place = self._place(path)
        known = None if place is None else _read(place, before)
        if known is not None:
            return known
        found = file_digest(path)
        now_ns = time.time_ns()
        if place is not None and before == _stamp(path) and max(before[2:]) < now_ns - _SETTLED_NS:
            with suppress(OSError), whole_file(place) as part:  # a full or foreign cache costs time, no run
                part.write_bytes(json.dumps([list(before), found]).encode())
        return found

    def _place(self, path: Path) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        return self.folder / name[:2] / name[2:]


@dataclass(slots=True)
class Ahead:
    """Digests of `paths`, computed on threads from now on, while something else is done.

    A context: leaving it drops what has not begun. `digest` waits for one; a path that was not given is read
    when it is asked for.
    """

    paths: Sequence[Path]
    digests: FileDigests
    readers: int = MOST_READERS
    _found: dict[Path, Future[str]] = field(default_factory=dict)
    _readers: ThreadPoolExecutor | None = None

    def __enter__(self) -> Ahead:
        self._readers = ThreadPoolExecutor(min(MOST_READERS, self.readers), "digests")
        largest_first = sorted(self.paths, key=lambda path: -path.stat().st_size)
        self._found = {path: self._readers.submit(self.digests.digest, path) for path in largest_first}
        return self

    def __exit__(self, *error: object) -> None:
        assert self._readers is not None
        self._readers.shutdown(wait=False, cancel_futures=True)

    def digest(self, path: Path) -> str:
        """Raises OSError when the file cannot be read."""
        ahead = self._found.get(path)
        return self.digests.digest(path) if ahead is None else ahead.result()


def _stamp(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _read(place: Path, stamp: tuple[int, ...]) -> str | None:
    try:
        known, digest = json.loads(place.read_bytes())
    except (OSError, ValueError, TypeError):  # absent or damaged: computed again
        return None
    return str(digest) if known == list(stamp) else None
