"""The command that says what this machine can run."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table
from rich.text import Text

from engine.commands._app import app, console, print_line
from engine.commands._output import JsonFile, write_json


@app.command(epilog="Example: [cyan]retake doctor[/]")
def doctor(json_file: JsonFile = None) -> None:
    """Say what this machine can run, and the fix for each thing that is missing."""
    from engine.build.doctor import can_run, examine
    from engine.settings.environment import offline

    offline()
    checks = examine()
    table = Table("", "what", "found", "fix")
    for check in checks:
        mark = Text("ok", "green") if check.ok else Text("no", "bold red" if check.required else "yellow")
        table.add_row(mark, check.name, Text(check.detail, overflow="fold"), Text(check.fix, overflow="fold"))
    console.print(table)
    write_json({"can_run": can_run(checks), "checks": [asdict(check) for check in checks]}, json_file)
    if not can_run(checks):
        print_line("the default run cannot work here: mend what is marked in red", "red")
        raise typer.Exit(1)
    print_line("the default run works here; yellow lines are options this machine lacks")
