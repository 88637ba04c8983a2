"""Code that torch has compiled, kept from run to run in a folder of bounded size.

Which entry is whose is torch's affair: its names hold source, shapes, versions and GPU. Knows no model.
Invariant: nothing is removed while a process holds the folder.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import IO, Final

LIMIT_BYTES: Final = 2 * 2**30
"""A model leaves some ten MB for each size of video."""
LOCK: Final = "in_use.lock"

_held: dict[Path, IO[bytes]] = {}


def hold(folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> bool:
    """Make the folder, for this user alone, and hold it until this process ends. False where that is refused.

    One beyond the limit is emptied first, unless another process holds it: the next start then tries again.
    """
    if folder in _held:
        return True
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / LOCK).open("ab")
    except OSError:
        return False
    try:
        _bound(folder, lock, limit_bytes)
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits for one who empties it
    except OSError:  # full, or on a disk without locks
        lock.close()
        return False
    _held[folder] = lock
    return True


def _bound(folder: Path, lock: IO[bytes], limit_bytes: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= limit_bytes:
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
