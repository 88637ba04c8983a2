"""A command in a fork: its status, what it said, and that one which hangs or dies is told apart."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.process import Ended, start


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a test's process others are of no account: these forks call nothing that waits for them."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def ended(main: Callable[[], None], folder: Path, *, limit_s: float = 60) -> Ended:
    return start(["run", "x"], folder / "output", main=main).wait(limit_s=limit_s)


def test_what_a_command_says_and_its_status(tmp_path: Path) -> None:
    def main() -> None:
        sys.stdout.write(" ".join(sys.argv) + "\n")
        sys.stderr.write("an error\n")
        sys.exit(3)

    found = ended(main, tmp_path)
    assert (found.status, found.output) == (3, "retake run x\nan error\n") and not found.unclear
    assert ended(lambda: None, tmp_path).status == 0


def test_a_traceback_is_unclear(tmp_path: Path) -> None:
    found = ended(lambda: {}["key"], tmp_path)
    assert found.status == 1 and "KeyError: 'key'" in found.output and found.unclear


def test_a_command_that_hangs_is_ended_and_unclear(tmp_path: Path) -> None:
    found = ended(lambda: time.sleep(600), tmp_path, limit_s=0.3)
    assert found.hung and found.unclear and found.status == -signal.SIGKILL


def test_a_signal_is_a_negative_status(tmp_path: Path) -> None:
    found = ended(lambda: os.kill(os.getpid(), signal.SIGTERM), tmp_path)
    assert found.status == -signal.SIGTERM and not found.unclear


def test_an_interrupt_is_what_python_makes_of_it(tmp_path: Path) -> None:
    """Whatever handler the parent has."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = ended(lambda: signal.raise_signal(signal.SIGINT), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert found.status == 1 and "KeyboardInterrupt" in found.output
