"""Full disks, disks that fail and folders that may not be written, from a file event on; room comes back.

Injected for each call below the run folder, SQLite's and FFmpeg's included; and once for real, on a small
tmpfs, where one may be mounted.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.interruptions import killed_in_between
from faults.process import Command, Ended
from faults.syscalls import Call
from faults.trial import Disturbed, Finding, Story, Trial, disturbed
from faults.workload import Workload

REFUSED = (0, 1, 2)
"""Done in spite of it (the last calls write no result), a scenario failed, the run was refused or ended."""
GROWING = ("write", "pwrite64", "writev", "sendfile", "copy_file_range", "fallocate", "ftruncate")
MAKING = ("open", "openat", "mkdir", "mkdirat")


def full(call: Call) -> int | None:
    new = call.name in MAKING and not os.path.exists(call.path)
    return errno.ENOSPC if new or call.name in GROWING else None


def read_only(call: Call) -> int | None:
    return None if call.name in ("write", "pwrite64", "fsync", "fdatasync") else errno.EROFS


def broken(call: Call) -> int | None:
    return errno.EIO if call.name in ("fsync", "fdatasync", "pwrite64", "write") else None


KINDS: dict[str, Callable[[Call], int | None]] = {
    "a full disk (ENOSPC) from a file event on": full,
    "a read-only folder (EROFS) from a file event on": read_only,
    "a failing disk (EIO) from a file event on": broken,
}


def failing_from(number: int, kind: Callable[[Call], int | None], *, only_once: bool = False) -> Disturbed:
    """Calls below the run folder fail from event `number` on, or the first one after it only."""

    def disturb(load: Workload, out: Path) -> Ended:
        failed: list[Call] = []

        def answer(command: Command, call: Call) -> int | None:
            if call.index < number or not call.path.startswith(str(out)) or (only_once and failed):
                return None
            error = kind(call)
            failed.extend([call] if error else [])
            return error

        return load.run(load.go_on(out), answer=answer)

    return disturb


def injected(load: Workload, *, stride: int) -> Iterator[Trial]:
    num_calls = load.num_calls()
    for fault, kind in KINDS.items():
        for number in range(0, num_calls, stride):
            yield Trial(
                fault=fault,
                name=str(number),
                run=lambda load, number=number, kind=kind: disturbed(
                    load, failing_from(number, kind), statuses=REFUSED
                ),
            )
    for number in range(1, num_calls, stride):
        yield Trial(
            fault="one call that fails (ENOSPC or EIO)",
            name=str(number),
            run=lambda load, number=number: disturbed(
                load,
                failing_from(number, (full, broken)[number % 2], only_once=True),
                statuses=REFUSED,
            ),
        )


def mounted(*, sizes_kib: Iterator[int] | range) -> Iterator[Trial]:
    for size in sizes_kib:
        yield Trial(
            fault="a full disk (tmpfs)", name=f"{size} KiB", run=lambda load, size=size: _on_full(load, size)
        )
    yield Trial(fault="a read-only folder (tmpfs)", name="resume", run=_on_read_only)
    yield Trial(
        fault="a read-only folder (tmpfs)", name="run", run=lambda load: _on_read_only(load, begun=False)
    )


def _on_full(load: Workload, size_kib: int) -> Finding:
    with _tmpfs(load.folder(), size_kib) as (place, remount):
        if place is None:
            return Finding(skipped=remount("") or "no tmpfs may be mounted here")
        story = Story(load, place / "run")
        story.add(load.run(load.begin(story.out)), expected=REFUSED)
        remount("size=64m")
        story.go_on()
        return story.end()


def _on_read_only(load: Workload, *, begun: bool = True) -> Finding:
    with _tmpfs(load.folder(), 65536) as (place, remount):
        if place is None:
            return Finding(skipped=remount("") or "no tmpfs may be mounted here")
        story = Story(load, place / "run")
        if begun:
            story.add(killed_in_between(load, story.out))
        remount("ro")
        story.add(load.run(load.go_on(story.out)), expected=(1, 2))
        remount("rw")
        story.go_on()
        return story.end()


@contextmanager
def _tmpfs(place: Path, size_kib: int) -> Iterator[tuple[Path | None, Callable[[str], str]]]:
    """A file system of that size and how to remount it; None and the reason where none may be mounted."""
    place.mkdir()
    done = _mount("-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(place))
    if done.returncode != 0:
        place.rmdir()
        yield None, lambda options: f"no tmpfs may be mounted here: {done.stderr.strip()}"
        return
    try:
        yield place, lambda options: _mount("-o", f"remount,{options}", str(place)).stderr
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(arguments, 1, "", str(error))
