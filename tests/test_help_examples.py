"""Every example of `--help`, pasted into a shell one after the other in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import typer.main
from foreign_wan import write_files
from typer.core import TyperGroup

from engine.cli import app
from engine.runs.folder import is_live
from engine.runs.listing import summary_of

EXAMPLE = re.compile(r"\[cyan\](retake [^\[]+)\[/\]")
T = TypeVar("T")
MOST_S = 600.0
"""That one example may take."""
SMALLER = {"--steps 8": "--steps 2", "demo --loops 0 --steps 4": "demo --loops 0 --steps 2 --limit 1"}
"""In place of what an example says: the same options, of fewer denoise steps and scenes."""
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


class Shell:
    """An empty folder with `retake` on the path, and nothing of the user's around it."""

    def __init__(self, root: Path) -> None:
        program = root / "bin" / "retake"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m engine.cli "$@"\n')
        program.chmod(0o755)
        self.folder = root / "here"
        self.folder.mkdir()
        self._count = 0
        self._environment = {
            **os.environ,
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
            "XDG_CACHE_HOME": str(root / "cache"),
            "XDG_DATA_HOME": str(root / "data"),
            "HF_HOME": str(root / "hf"),
        }

    def paste(self, line: str) -> None:
        with self.pasted(line):
            pass

    @contextmanager
    def pasted(self, line: str, status: int = 0) -> Iterator[Pasted]:
        """While it goes on; in the end it has this status."""
        for words, fewer in SMALLER.items():
            line = line.replace(words, fewer)
        self._count += 1
        log = self.folder.parent / f"{self._count}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                f"exec {line}",
                shell=True,
                cwd=self.folder,
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Pasted(process, log)
            process.wait(MOST_S)
        finally:
            process.kill()
        assert process.returncode == status, f"{line}\n{log.read_text()}"


@dataclass(frozen=True)
class Pasted:
    process: subprocess.Popen[bytes]
    log: Path

    def said(self, pattern: str) -> str:
        """The first group of it, once it is said."""
        return str(until(lambda: re.search(pattern, self.log.read_text()))[1])

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)


def until(ask: Callable[[], T | None]) -> T:
    end_s = time.monotonic() + MOST_S
    while (found := ask()) is None:
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_example_works_when_it_is_pasted(tmp_path: Path) -> None:
    """What is of a run that was stopped or goes on is asked of one."""
    shell = Shell(tmp_path)
    run = shell.folder / "runs" / "first"
    published_files(shell.folder)
    of_stopped, of_live = (
        [line for line in examples() if line.split()[1] in verbs]
        for verbs in (("skip",), ("pause", "unpause"))
    )
    for line in examples():
        if line == "retake demo" or line in of_stopped or line in of_live:  # the demo's other one is shorter
            continue
        if line.startswith("retake run ") and line.endswith("runs/first"):
            with shell.pasted(line, status=130) as begun:
                until(lambda: goes_on(run) or None)
                begun.interrupt()
            for later in of_stopped:
                shell.paste(later)
        elif line == "retake resume runs/first":
            with shell.pasted(line):
                until(lambda: goes_on(run) or None)
                for meanwhile in of_live:
                    shell.paste(meanwhile)
        elif line.startswith("retake watch "):
            with shell.pasted(line, status=130) as watch:
                with urllib.request.urlopen(watch.said(r"watch: (http\S+)"), timeout=MOST_S) as page:
                    assert page.status == 200
                watch.interrupt()
        else:
            shell.paste(line)


def goes_on(run: Path) -> bool:
    """With a store that can be read: the lock is there before it."""
    return is_live(run) and summary_of(run).fault is None


def published_files(folder: Path) -> None:
    """Tiny ones under the names of the published files that the examples of `retake models` name."""
    _, files = write_files(folder)
    names = {
        files.plain: "wan2.2_ti2v_5B_fp16.safetensors",
        files.vae: "wan2.2_vae.safetensors",
        files.text_encoder: "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    }
    for path, name in names.items():
        path.rename(folder / name)
