"""Calls that change files: each is seen before it is carried out, failed with an errno, or never made."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.syscalls import KILL, Answer, Call, hand_over, supervise, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def in_child(work: Callable[[], None], answer: Answer) -> tuple[int, int]:
    """Exit status, negative for a signal, and number of calls of `work` in a fork."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            hand_over(theirs)
            work()
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
    num_calls = supervise(pid, listener, answer, silent_s=30)
    os.close(listener)
    ours.close()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), num_calls


def test_each_change_is_seen_with_its_path(tmp_path: Path) -> None:
    seen: list[Call] = []

    def work() -> None:
        descriptor = os.open(tmp_path / "part", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"content")
        os.fsync(descriptor)
        os.close(descriptor)
        os.rename(tmp_path / "part", tmp_path / "whole")
        os.open(tmp_path / "whole", os.O_RDONLY)  # no change: not handed over

    assert in_child(work, lambda call: seen.append(call)) == (0, 4)
    assert [(call.index, call.name, Path(call.path).name) for call in seen] == [
        (0, "openat", "part"),
        (1, "write", "part"),
        (2, "fsync", "part"),
        (3, "rename", "whole"),
    ]


@pytest.mark.parametrize("number", range(4))
def test_killed_before_a_call_it_is_not_made(tmp_path: Path, number: int) -> None:
    def work() -> None:
        descriptor = os.open(tmp_path / "part", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"content")
        os.rename(tmp_path / "part", tmp_path / "whole")
        os.unlink(tmp_path / "whole")

    status, _ = in_child(work, lambda call: KILL if call.index == number else None)
    assert status == -signal.SIGKILL
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == ({}, {"part": b""}, {"part": b"content"}, {"whole": b"content"})[number]


def test_native_code_gets_the_errno(tmp_path: Path) -> None:
    """SQLite writes its log through calls of its own."""

    def work() -> None:
        database = sqlite3.connect(tmp_path / "x.sqlite")
        database.execute("PRAGMA journal_mode = WAL")
        try:
            database.execute("CREATE TABLE t (a)")
        except sqlite3.OperationalError as error:
            assert "full" in str(error)
            os._exit(7)

    def full(call: Call) -> int | None:
        return errno.ENOSPC if call.path.endswith("-wal") and call.name == "pwrite64" else None

    assert in_child(work, full)[0] == 7


def test_calls_of_threads_count_and_those_of_other_programs_do_not(tmp_path: Path) -> None:
    def work() -> None:
        subprocess.run(["touch", str(tmp_path / "by-touch")], check=True)
        (tmp_path / "own").touch()

    names: list[str] = []
    status, _ = in_child(work, lambda call: names.append(Path(call.path).name))
    assert status == 0 and (tmp_path / "by-touch").exists()
    assert "own" in names and "by-touch" not in names
