"""The system calls by which a process changes files, each of them answered by its parent.

A seccomp filter hands every such call of the child to the parent before the kernel carries it out, those of
native code (SQLite, FFmpeg) included. The parent lets it pass, fails it with an errno, or kills the child in
front of it. Nothing else changes a file: "in front of each call" covers every state that a kill can leave.
Needs Linux 5.5 on x86-64, no privileges.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Numbers of x86-64, from asm/unistd_64.h.
CREATING_OPENS = {"open": (2, 1), "openat": (257, 2)}
"""Number, and which argument holds the flags; only calls with O_CREAT are handed over."""
CHANGING = {
    "write": 1,
    "pwrite64": 18,
    "writev": 20,
    "sendfile": 40,
    "fsync": 74,
    "fdatasync": 75,
    "ftruncate": 77,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "link": 86,
    "unlink": 87,
    "mkdirat": 258,
    "unlinkat": 263,
    "renameat": 264,
    "fallocate": 285,
    "renameat2": 316,
    "copy_file_range": 326,
}
NAMES = {number: name for name, number in CHANGING.items()} | {
    number: name for name, (number, _) in CREATING_OPENS.items()
}
BY_DESCRIPTOR = {"write": 0, "pwrite64": 0, "writev": 0, "sendfile": 0, "fsync": 0, "fdatasync": 0} | {
    "ftruncate": 0,
    "fallocate": 0,
    "copy_file_range": 2,
}
"""Which argument is the descriptor that is changed."""
BY_PATH = {"open": 0, "openat": 1, "rename": 1, "mkdir": 0, "mkdirat": 1, "renameat": 3, "renameat2": 3} | {
    "rmdir": 0,
    "unlink": 0,
    "unlinkat": 1,
    "link": 1,
}
"""Which argument is the path that is changed."""

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP = 317
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_ALLOW, _HAND_OVER = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, thread, flags; number, architecture, pointer, arguments
_ANSWER = struct.Struct("=QqiI")  # id, value, error, flags
_CONTINUE = 1


def unavailable() -> str | None:
    """Why calls cannot be handed over here; None where they can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"the filter is written for Linux on x86-64, not {platform.system()} {platform.machine()}"
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    if not actions.is_file() or "user_notif" not in actions.read_text():
        return "this kernel has no seccomp notifications"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that has not been carried out yet; `path` is what it changes, as far as that is to be had."""

    index: int  # in the child's life, from 0
    name: str
    path: str


Answer = Callable[[Call], int | None]
"""What becomes of a call: None lets it pass, a positive errno fails it, KILL ends the process before it."""
KILL = -1


def hand_over(parent: socket.socket) -> None:
    """In the child: from here on every changing call, later threads' too, waits for the parent's answer."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):  # the kernel asks for it where there is no privilege
        raise OSError(ctypes.get_errno(), "prctl")
    code = _program()
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    listener = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.c_char_p(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    socket.send_fds(parent, [b"l"], [listener])
    os.close(listener)


def supervise(child: int, listener: int, answer: Answer, *, silent_s: float) -> int:
    """In the parent: answer the calls of process `child` until it ended; its number of calls.

    Calls of processes that the child started pass uncounted. A child that makes no call for `silent_s`
    seconds is left to the caller, who finds it still there.
    """
    num_calls = 0
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    while True:
        events = poller.poll(silent_s * 1000)
        if not events or not events[0][1] & select.POLLIN:
            return num_calls
        if (received := _receive(listener)) is None:
            continue
        call_id, thread, number, arguments = received
        error: int | None = None
        if os.path.exists(f"/proc/{child}/task/{thread}"):
            name = NAMES[number]
            call = Call(index=num_calls, name=name, path=_path(child, name, arguments))
            num_calls += 1
            error = answer(call)
            if error == KILL:
                os.kill(child, signal.SIGKILL)
                return num_calls
        _send(listener, call_id, error)


def _receive(listener: int) -> tuple[int, int, int, tuple[int, ...]] | None:
    """None where the caller is gone in the meantime, killed by somebody else."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    call_id, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return call_id, thread, number, tuple(arguments)


def _send(listener: int, call_id: int, error: int | None) -> None:
    flags = _CONTINUE if error is None else 0
    answer = _ANSWER.pack(call_id, 0 if error is None else -1, -(error or 0), flags)
    try:
        fcntl.ioctl(listener, _SEND, bytearray(answer))
    except OSError as gone:
        if gone.errno != errno.ENOENT:
            raise


def _path(process: int, name: str, arguments: tuple[int, ...]) -> str:
    try:
        if name in BY_DESCRIPTOR:
            return os.readlink(f"/proc/{process}/fd/{arguments[BY_DESCRIPTOR[name]]}")
        with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
            memory.seek(arguments[BY_PATH[name]])
            text = memory.read(256)
            return os.fsdecode(text.partition(b"\0")[0])
    except OSError:
        return ""


def _program() -> bytes:
    """Classic BPF over struct seccomp_data: number at 0, arguments from 16 on, the lower half first."""
    load, equal, has_bits, give = 0x20, 0x15, 0x45, 0x06

    def step(code: int, then: int, otherwise: int, value: int) -> bytes:
        return struct.pack("=HBBI", code, then, otherwise, value)

    tests = [step(load, 0, 0, 0)]
    for number, place in CREATING_OPENS.values():
        tests += [
            step(equal, 0, 4, number),
            step(load, 0, 0, 16 + 8 * place),
            step(has_bits, 0, 1, os.O_CREAT),
            step(give, 0, 0, _HAND_OVER),
            step(give, 0, 0, _ALLOW),
        ]
    for number in CHANGING.values():
        tests += [step(equal, 0, 1, number), step(give, 0, 0, _HAND_OVER)]
    return b"".join([*tests, step(give, 0, 0, _ALLOW)])
