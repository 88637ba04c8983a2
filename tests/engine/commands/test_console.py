"""What is printed is text: names from elsewhere are shown, not obeyed."""

from __future__ import annotations

import io

import pytest
from rich.live import Live
from rich.progress import Progress, TextColumn
from rich.table import Table

from engine.commands._console import PlainConsole, make_console
from kernels.files import printable

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b1m\r\u202egpj.exe\udcff[/red][bold]:skull:"
SHOWN = "a?]0;owned??[2J?1m??gpj.exe?[/red][bold]:skull:"
BY_RICH = "a?]0;owned?[2J?1m?gpj.exe?[/red][bold]:skull:"
"""It takes bells and carriage returns away by itself."""


def shown(*, terminal: bool = True) -> tuple[PlainConsole, io.StringIO]:
    file = io.StringIO()
    return PlainConsole(
        file=file, force_terminal=terminal, width=120, markup=False, emoji=False, highlight=False
    ), file


def test_printable() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("café\t球\n") == "café\t球\n"


def test_a_hostile_name_is_shown_by_everything_that_prints() -> None:
    console, file = shown()
    console.print(HOSTILE)
    table = Table("name", title=HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    with console.status(HOSTILE) as status:
        status.update(HOSTILE)
    progress = Progress(TextColumn("{task.description}", markup=False), console=console)
    progress.add_task(HOSTILE)
    with Live(progress, console=console):
        pass
    text = file.getvalue()
    assert text.count(BY_RICH) >= 3
    for code in ("\x07", "\x9b", "\x1b]0;", "\x1b[2J\x9b", "\u202e", "\udcff"):
        assert code not in text
    assert "\x1b[" in text, "our own styles are obeyed"


def test_the_consoles_of_commands_are_such(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print(HOSTILE, soft_wrap=True)
    make_console(stderr=True).print(HOSTILE, soft_wrap=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == f"{BY_RICH}\n"
