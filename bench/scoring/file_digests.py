"""SHA-256 of files, remembered between runs, so that a dataset of many gigabytes is read once.

A digest is believed only while the file's size, inode and both times are what they were. A file that changed
within the last seconds is not remembered: a second change could leave all of these as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench.files import write_whole
from engine.errors import VideoError
from kernels.files import file_digest

_SETTLED_NS = 3_000_000_000  # coarse file systems keep times to 2 s


@dataclass(frozen=True, slots=True)
class FileDigests:
    """`folder` holds one small file per path; None remembers nothing."""

    folder: Path | None

    def digest(self, path: Path) -> str:
        """Of the content, in hex. Raises VideoError when the file is missing."""
        before = _stamp(path)
        place = self._place(path)
        known = None if place is None else _read(place, before)
        if known is not None:
            return known
        found = sha256(path)
        now_ns = time.time_ns()
        if place is not None and before == _stamp(path) and max(before[2:]) < now_ns - _SETTLED_NS:
            write_whole(place, json.dumps([list(before), found]).encode())
        return found

    def _place(self, path: Path) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        return self.folder / name[:2] / name[2:]


def sha256(path: Path) -> str:
    """Of a file, in hex. Raises VideoError when it is missing."""
    try:
        return file_digest(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise missing_file(path) from error


def _stamp(path: Path) -> tuple[int, int, int, int]:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise missing_file(path) from error
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _read(place: Path, stamp: tuple[int, ...]) -> str | None:
    try:
        known, digest = json.loads(place.read_bytes())
    except (OSError, ValueError, TypeError):  # absent or damaged: computed again
        return None
    return str(digest) if known == list(stamp) else None


def missing_file(path: Path) -> VideoError:
    return VideoError(f"{path} does not exist or is not a file", fix="check the path or copy the clip there")
