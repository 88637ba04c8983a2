"""Every example of `--help`, pasted into a shell one after the other in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from engine.cli import app

EXAMPLE = re.compile(r"\[cyan\](retake [^\[]+)\[/\]")
FIRST = ("scenes", "run", "resume", "merge", "score", "report", "choose")
"""What the other examples start from. The rest comes in the order of --help; what removes comes last."""
LAST = ("runs remove", "cache clear")


def commands() -> Iterator[tuple[str, str]]:
    """Name and epilog of every command and group."""
    todo: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while todo:
        name, command = todo.pop(0)
        yield name, command.epilog or ""
        if isinstance(command, TyperGroup):
            context: Any = typer.Context(command)
            names = command.list_commands(context)
            todo += [(f"{name} {one}".strip(), command.get_command(context, one)) for one in names]


def examples() -> list[str]:
    """Each once, in an order in which they work."""

    def place(pair: tuple[str, str]) -> int:
        name = pair[0]
        return FIRST.index(name) if name in FIRST else len(FIRST) + (name in LAST)

    ordered = sorted(((name, epilog) for name, epilog in commands() if name), key=place)
    return list(dict.fromkeys(line for _, epilog in ordered for line in EXAMPLE.findall(epilog)))


def test_every_command_has_an_example_of_its_own() -> None:
    for name, epilog in commands():
        if name not in ("", "models", "runs", "cache", "export"):  # groups, whose commands have theirs
            assert (
                any(
                    line.startswith(f"retake {name} ") or line == f"retake {name}"
                    for line in EXAMPLE.findall(epilog)
                )
                or name == "export build"
            ), name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_example_works_when_it_is_pasted(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "retake"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m engine.cli "$@"\n')
    program.chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    given = {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hf"),
    }
    for line in examples():
        if line == "retake demo":  # its other example is the same in a tenth of the time
            continue
        done = subprocess.run(
            line,
            shell=True,
            cwd=here,
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
