"""Ctrl-C and SIGTERM before, in and after a command: one line and status 130, in a process as users start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import engine
from bench.commands import _process
from engine.commands import _app

ROOT = Path(engine.__file__).parents[1]
CHILD = """
import os, signal, sys
sys.path.insert(0, {root!r})
from engine.commands._interrupts import interruptible, stop_at_once, stopping_at_once
def interrupt():
    os.kill(os.getpid(), signal.{name})
{code}
"""
SIGNALS = ("SIGINT", "SIGTERM")


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize(
    "code",
    [
        "with stopping_at_once():\n    try:\n        interrupt()\n    except BaseException:\n        pass",
        "stop_at_once()\nwith interruptible():\n    pass\ninterrupt()",
        "stop_at_once()\nimport atexit\nimport threading\nthreading.Thread(target=interrupt).start()",
    ],
    ids=["while importing", "after the command", "while threads end"],
)
def test_outside_of_a_command_the_process_ends_at_once(code: str, name: str) -> None:
    source = CHILD.format(root=str(ROOT), code=code, name=name)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nstopped\n")


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(cls=_app._Group)
    made.callback()(lambda: None)
    return made


@pytest.mark.parametrize("name", SIGNALS)
def test_within_a_command_what_was_begun_is_put_away(app: typer.Typer, name: str) -> None:
    put_away = []

    @app.command()
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.Signals[name])
        finally:
            put_away.append(True)

    result = CliRunner().invoke(app, ["work"])
    assert (result.exit_code, put_away) == (130, [True])
    assert result.stderr.strip() == "stopped"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "runs/a"), "make room"),
        (PermissionError(13, "Permission denied", "runs/a"), "read and write"),
        (OSError(30, "Read-only file system", "runs/.a.0123abcd.partial"), "read and write"),
        (OSError(36, "File name too long", "runs/a"), "check the path"),
    ],
)
def test_what_the_system_refuses_is_told_with_a_fix(app: typer.Typer, error: OSError, says: str) -> None:
    @app.command()
    def work() -> None:
        raise error

    result = CliRunner().invoke(app, ["work"])
    assert result.exit_code == 2
    assert "runs/a" in result.stderr and says in result.stderr and "Traceback" not in result.stderr


def test_a_librarys_own_oserror_is_no_file_of_the_users(app: typer.Typer) -> None:
    @app.command()
    def work() -> None:
        raise OSError("no model here")

    assert isinstance(CliRunner().invoke(app, ["work"]).exception, OSError)


def test_an_evaluator_that_is_not_reached_by_the_interrupt_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal to this process alone, while the evaluator waits for ever."""
    monkeypatch.setattr(_process, "GRACE_S", 0.1)
    real, started = subprocess.Popen, []

    def start(command: list[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
        assert command[1:5] == ["-P", "-m", "bench.commands._evaluator", "scoring.physics_iq"]
        code = CHILD.format(
            root=str(ROOT), name="SIGINT", code="stop_at_once()\nprint(flush=True)\nsignal.pause()"
        )
        process = real([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        wait = process.wait

        def interrupted(timeout: float | None = None) -> int:
            process.wait = wait  # type: ignore[method-assign]
            raise KeyboardInterrupt

        process.wait = interrupted  # type: ignore[method-assign]
        started.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(typer.Exit) as caught:
        _process.run_module("scoring.physics_iq")
    assert caught.value.exit_code == 130 and started[0].returncode == 130
