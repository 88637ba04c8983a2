"""The files of a run folder: which names may lie in it, its lock, and what the system refuses to write.

Knows no table and no codec. Invariant: what a foreign run or dataset names is opened inside the folder only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO

from engine.errors import RetakeError, RunLost, StoreError
from engine.types import Scenario
from engine.words import command_line
from kernels.files import inside, is_part, name_fault, whole_file

DATABASE = "run.sqlite"
VIDEOS, CHOSEN, JOINED = "videos", "chosen", "joined"
LOCK = "run.lock"
WRITTEN_UNDER_LOCK = (DATABASE, "config.toml", "manifest.json", "trace.json", "live.json")
"""Of the folder itself; reports and scores may be written beside a run that goes on."""

MOST_NAMED = 3
"""Of the runs that may have been meant."""
_NAME_IT = "name the folder given as --out"
_TRIES, _AGAIN_S = 4, 0.01
"""Of taking the lock."""

_OF_THE_NAME = frozenset(
    {
        *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOENT, errno.EEXIST),
        *(errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP),
    }
)
"""What one name can be refused for, though others are taken."""
_OF_THE_DISK = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV),
        *(errno.ENXIO, errno.EACCES, errno.EPERM),
    }
)
"""In the middle of a run: the next write would be refused as well."""


def check_names(scenarios: Sequence[Scenario]) -> None:
    """StoreError unless every id and output name can be that of a file, and of one scenario only."""
    for names, what in (
        ([s.id for s in scenarios], "scenario id"),
        ([s.output_name for s in scenarios], "output name"),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                raise StoreError(f"{what} {name!r} occurs twice", fix="give every scenario its own name")
            if fault := name_fault(name):
                raise StoreError(
                    f"{what} {name!r} cannot be a file name: it {fault}",
                    fix="give a plain name, without path separators",
                )


def require_run(folder: Path) -> None:
    """StoreError for what is no run folder; the fix names the runs that it lies in or that lie in it."""
    if (folder / DATABASE).is_file():
        return
    why, near = f"it holds no {DATABASE}", []
    if folder.is_dir():
        near = sorted(path.parent for path in folder.glob(f"*/{DATABASE}"))
    else:
        why = "it is a file" if folder.exists() else "it does not exist"
    near += [parent for parent in folder.parents if (parent / DATABASE).is_file()]
    fix = f"name a run folder: {', '.join(map(str, near[:MOST_NAMED]))}" if near else _NAME_IT
    raise StoreError(f"{folder} is not a run folder: {why}", fix=fix)


def place_in(folder: Path, place: str | PurePath) -> Path:
    """`folder` / `place`, where what a store names may be opened; StoreError for a place outside."""
    try:
        return inside(folder, place)
    except ValueError as error:
        raise StoreError(
            f"{folder} names a file that is not its own: {error}",
            fix="use a run folder that you trust, with its files in it and no links to others",
        ) from error


def place_of_take(folder: Path, scenario_id: str, index: int) -> Path:
    """Where the video of an attempt belongs, relative to the folder; StoreError if that is outside."""
    path = Path(VIDEOS) / scenario_id / f"attempt-{index}.mp4"
    place_in(folder, path)
    return path


def place_of_scout(folder: Path, scenario_id: str, number: int) -> Path:
    """Where the preview of a scout belongs, relative to the folder; StoreError if that is outside."""
    path = Path(VIDEOS) / scenario_id / f"scout-{number}.mp4"
    place_in(folder, path)
    return path


def unwritable(folder: Path, scenarios: Sequence[Scenario]) -> dict[str, str]:
    """Why nothing can be kept of a scenario, by id: a name that the disk refuses. RunLost for a full disk.

    Makes the folders of the others.
    """
    found = {}
    for scenario in scenarios:
        try:
            with writing(folder, but=_OF_THE_NAME):
                place_in(folder, Path(VIDEOS) / scenario.id).mkdir(parents=True, exist_ok=True)
                with suppress(_Tried), whole_file(folder / CHOSEN / scenario.output_name) as part:
                    part.touch()
                    raise _Tried
        except OSError as error:
            name = Path(str(error.filename)).name
            found[scenario.id] = f"its name cannot be written in {folder}: {error.strerror} ({name})"
    return found


class _Tried(Exception):
    """The name was taken, and nothing is to be left under it."""


@contextmanager
def writing(folder: Path, *, but: frozenset[int] = frozenset()) -> Iterator[None]:
    """RunLost where the system refuses this write and would refuse the next; all other errors pass.

    but: error numbers that are to pass too.
    """
    try:
        yield
    except (OSError, RetakeError) as error:
        cause = error.__cause__ if isinstance(error, RetakeError) else error
        if isinstance(error, RunLost) or not isinstance(cause, OSError):
            raise
        if cause.errno not in _OF_THE_DISK - but:
            raise
        raise run_lost(folder, cause.strerror or str(cause)) from error


def run_lost(folder: Path, why: str) -> RunLost:
    return RunLost(
        f"{folder} takes no more writes: {why}; all that was finished before is kept",
        fix="make room there or restore the rights, then go on with "
        f"`{command_line('retake', 'resume', folder)}`",
    )


def take_lock(folder: Path) -> IO[bytes]:
    """Held until closed; the kernel frees it when the process dies, however it dies."""
    lock = None
    try:
        lock = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab")
        lock_alone(lock.fileno())
    except OSError as error:
        if lock is not None:
            lock.close()
        if isinstance(error, BlockingIOError):
            raise StoreError(
                f"{folder} is being written by another process",
                fix="wait for it to end, or stop it; if it is paused, `retake unpause` it",
            ) from error
        raise StoreError(
            f"{folder} cannot be locked: {error.strerror}",
            fix="give a folder that you may write, on a disk with file locks (some network disks have none)",
        ) from error
    return lock


def lock_alone(file: int) -> None:
    """BlockingIOError where another process holds the lock; one that only looks whether it is held is gone at
    once, and waited for."""
    for _ in range(_TRIES - 1):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_AGAIN_S)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_live(folder: Path) -> bool:
    """Whether a process writes the run at the moment."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return is_locked(lock)
    finally:
        os.close(lock)


def is_locked(file: int) -> bool:
    """Whether another process holds the lock alone."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def remove_parts(folder: Path) -> None:
    """What killed writers left of files that only the holder of the lock writes."""
    found = [p for p in folder.iterdir() if p.name.startswith(tuple(f".{n}." for n in WRITTEN_UNDER_LOCK))]
    for place in (folder / CHOSEN, *_folders(folder / VIDEOS)):
        found += place.iterdir() if place.is_dir() else ()
    with writing(folder):
        for path in filter(is_part, found):
            path.unlink(missing_ok=True)


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]


def flush(path: Path) -> None:
    """Force a file and its directory entry to disk, so that no row can outlive its video."""
    for target in (path, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
