"""The commands of `retake --help` as a table for README.md, so that no list of them is written by hand."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

from bench.results_page import markdown as md
from bench.results_page.page import Page


def commands(page: Page) -> str:
    """Names and the first sentence of their help, in the order of `retake --help`."""
    from engine.cli import app  # with the commands of all houses

    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup), "retake has commands"
    context = typer.Context(group, info_name="retake")
    rows = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            rows.append([f"`retake {name}`", " ".join((command.help or "").split("\n\n")[0].split())])
    assert rows, "no command is registered"
    return md.table(["command", "what it does"], rows, num_text_columns=2)
