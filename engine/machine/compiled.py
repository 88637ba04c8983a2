"""Code that torch has compiled, kept from run to run in a folder of bounded size.

Which entry is whose is torch's affair: its names hold source, shapes, versions and GPU. But it runs a file
that lost its end, as after a power cut, into an error at every start. Knows no model. Invariants: what is
found at a start is what a process left that ended by itself; nothing is removed while another uses it.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from kernels.files import file_digest, read_json, whole_file

LIMIT_BYTES: Final = 2**30
"""A model leaves some ten MB for each size of video."""
LOCK, INDEX = "in_use.lock", "index.json"

_held: dict[Path, IO[bytes]] = {}


def hold(folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> bool:
    """Make the folder, for this user alone, and hold it until this process ends. False where that is refused.

    Unless another process holds it: files that are not as they were left are removed, and all of them where
    they are beyond the limit. torch makes again what is missing.
    """
    if folder in _held:
        return True
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / LOCK).open("ab")
    except OSError:
        return False
    try:
        _clean(folder, lock, limit_bytes)
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits for one who cleans
    except OSError:  # full, or on a disk without locks
        lock.close()
        return False
    _held[folder] = lock
    atexit.register(leave, folder)
    return True


def leave(folder: Path) -> None:
    """Write down what is in the folder, and let others clean it."""
    lock = _held.pop(folder, None)
    if lock is None:
        return
    with lock, suppress(OSError):  # a full disk: all is made again
        found = {str(path.relative_to(folder)): file_digest(path) for path in _entries(folder)}
        with whole_file(folder / INDEX) as part:
            part.write_text(json.dumps(found), encoding="utf-8")


def _clean(folder: Path, lock: IO[bytes], limit_bytes: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if sum(path.stat().st_size for path in _entries(folder)) > limit_bytes:
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()
    known = _index(folder / INDEX)
    for path in list(_entries(folder)):
        if known.get(str(path.relative_to(folder))) != file_digest(path):
            path.unlink()


def _entries(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.name not in (LOCK, INDEX))


def _index(path: Path) -> dict[str, str]:
    """Empty where it is absent or damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
