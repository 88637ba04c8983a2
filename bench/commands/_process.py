"""Evaluators in a process of their own, so that what they read of references never enters the loop's."""

from __future__ import annotations

import subprocess
import sys

from engine.commands._app import errors


def run_module(name: str, *arguments: object) -> int:
    """Exit status of the module `name` of the benchmarks, such as "scoring.physics_iq"."""
    command = [sys.executable, "-m", f"bench.{name}", *map(str, arguments)]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        errors.print(f"bench.{name} ended with status {status}", style="red", highlight=False)
    return status
