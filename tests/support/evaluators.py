"""Commands that start an evaluator, without the evaluator."""

from __future__ import annotations

import subprocess
import sys

import pytest


def catch_evaluators(monkeypatch: pytest.MonkeyPatch, *, status: int) -> list[list[str]]:
    """The commands that are started from now on; a process that ends with `status` stands in for each."""
    started: list[list[str]] = []
    real = subprocess.Popen

    def start(command: list[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
        started.append(command)
        return real([sys.executable, "-c", f"raise SystemExit({status})"])

    monkeypatch.setattr(subprocess, "Popen", start)
    return started
