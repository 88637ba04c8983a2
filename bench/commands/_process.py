"""Evaluators in a process of their own, so that what they read of references never enters the loop's."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import typer

from engine.commands._app import console, errors
from engine.commands._interrupts import STATUS, ignored
from kernels.files import STDOUT

STDERR = 2
TOLD = (0, 1, 2, STATUS)
"""With these statuses an evaluator has said itself what became of it, and the fix."""
GRACE_S = 3.0
"""In which an interrupted evaluator ends by itself."""


def run_module(name: str, *arguments: object, json_file: Path | None = None) -> int:
    """Exit status of the module `name` of the benchmarks, such as "scoring.physics_iq". A module that takes a
    `json_file` leaves stdout to it where it is STDOUT, and keeps quiet beside it with --quiet."""
    if json_file is not None:
        arguments = (*arguments, "--json", json_file)
    printed = json_file == STDOUT
    if printed and console.quiet:
        arguments = (*arguments, "--quiet")
    # -P: a folder of the user's that is called `bench` is not the one that is meant
    command = [sys.executable, "-P", "-m", "bench.commands._evaluator", name, *map(str, arguments)]
    with subprocess.Popen(command, stdout=None if printed else _stdout()) as process:  # nosec B603 # our own interpreter
        try:
            status = process.wait()
        except KeyboardInterrupt:
            _end(process)
            raise typer.Exit(STATUS) from None
    if status not in TOLD:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        errors.print(f"bench.{name} {how}", style="red")
    return status


def _stdout() -> int | None:
    """Where what it prints goes; None: where ours does."""
    if console.quiet:
        return subprocess.DEVNULL
    return STDERR if console.stderr else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """A terminal interrupts both, and the evaluator says so; whoever signals this process alone does not."""
    with ignored():
        try:
            process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
    if process.returncode != STATUS:  # it ended before it could say so
        errors.print("stopped")
