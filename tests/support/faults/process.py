"""A `retake` command in a forked copy of this warm process: it begins at once and can be disturbed.

The copy runs the command line from `main` on, with its own descriptors 0 to 2. Invariant: whoever forks has
one thread, since a copy has no other.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import engine.cli
from faults.syscalls import Answer, hand_over, supervise

SILENT_S = 120.0
"""A command without a sign of life for so long hangs: no step of a tiny model takes a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a command; `status` is negative where a signal ended it."""

    status: int
    output: str  # both streams, as a user sees them
    num_calls: int = 0
    hung: bool = False

    @property
    def unclear(self) -> bool:
        """Whether a user is left with a traceback or with nothing."""
        return self.hung or "Traceback (most recent call last)" in self.output


@dataclass(slots=True, kw_only=True)
class Command:
    """A command that has begun. Exactly one of `watch` and `wait` ends it."""

    pid: int
    output: Path
    listener: int | None

    def watch(self, answer: Answer) -> Ended:
        """Answer its calls to the end."""
        assert self.listener is not None, "it was started without a filter"
        num_calls = supervise(self.pid, self.listener, answer, silent_s=SILENT_S)
        os.close(self.listener)
        return self.wait(num_calls=num_calls)

    def wait(self, *, num_calls: int = 0, limit_s: float = SILENT_S) -> Ended:
        hung = not self.ended_within(limit_s)
        if hung:
            self.send(signal.SIGKILL)
        _, raw = os.waitpid(self.pid, 0)
        text = self.output.read_text(encoding="utf-8", errors="replace")
        return Ended(status=os.waitstatus_to_exitcode(raw), output=text, num_calls=num_calls, hung=hung)

    def ended_within(self, seconds: float) -> bool:
        descriptor = os.pidfd_open(self.pid)
        try:
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)

    def send(self, number: signal.Signals) -> None:
        """To a process that may be gone: it is this process's child, so its number is not given anew."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def start(
    arguments: Sequence[str],
    output: Path,
    *,
    main: Callable[[], None] = engine.cli.main,
    first: Callable[[], None] = lambda: None,
    watched: bool = False,
) -> Command:
    """Fork and call `main` with `retake ARGUMENTS` in sys.argv, after `first`.

    With `watched`, the calls of `main` are handed over, and nobody but `Command.watch` lets them pass.
    """
    assert threading.active_count() == 1, f"threads would be missing: {threading.enumerate()}"
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _become(arguments, output, (first, main), theirs if watched else None)
    theirs.close()
    listener = None
    if watched:
        _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    return Command(pid=pid, output=output, listener=listener)


def _become(
    arguments: Sequence[str], output: Path, calls: Sequence[Callable[[], None]], parent: socket.socket | None
) -> None:
    status = 1
    gc.freeze()  # what the parent is done with is not put away here: FFmpeg's scaler waits for its threads
    try:
        _take_descriptors(output)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        sys.argv = ["retake", *arguments]
        first, main = calls
        first()
        if parent is not None:
            hand_over(parent)
            parent.close()
        main()
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:  # noqa: BLE001 as the interpreter does at its end
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _take_descriptors(output: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(file)
    # anew: those of this process may be a test's
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = io.FileIO(descriptor, "w", closefd=False)
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", line_buffering=True))
