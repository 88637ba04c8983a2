"""Commands that start an evaluator, without it or without its process."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

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


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluators run where the command does, which saves the imports of a process for each."""

    def run(name: str, *arguments: object, json_file: Path | None = None) -> int:
        given = arguments if json_file is None else (*arguments, "--json", json_file)
        return int(import_module(f"bench.{name}").main([*map(str, given)]))

    for command in ("score", "table", "compare"):
        monkeypatch.setattr(f"bench.commands.{command}.run_module", run)
