"""The commands over run folders: which there are, and removing them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from engine.commands._app import app, console, print_line
from engine.commands._output import Commands, DryRun, JsonFile, Yes, confirm, in_units, write_json
from engine.words import counted

group = Commands(no_args_is_help=True, help="Look after run folders.")
app.add_typer(group, name="runs")


@group.command("list", epilog="Example: [cyan]retake runs list[/]")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="The folder that the run folders lie in.")] = Path("runs"),
    json_file: JsonFile = None,
) -> None:
    """Show the runs in a folder: when they were started, how far they are, and what they take on the disk."""
    from engine.runs.listing import runs_in

    found = runs_in(folder)
    table = Table()
    table.add_column("run", overflow="fold")
    for title in ("started", "done", "takes", "size", "state"):
        table.add_column(title)
    for one in found:
        started = (one.started or "")[: len("2026-11-29T12:30")].replace("T", " ")
        done, size = f"{one.num_done} of {one.num_scenarios}", in_units(one.num_bytes)
        takes = (
            f"{one.num_takes} of {counted(one.num_scouts, 'scout')}" if one.num_scouts else str(one.num_takes)
        )
        table.add_row(str(one.folder), started, done, takes, size, one.state)
    if found:
        console.print(table)
    else:
        print_line(f"no runs in {folder}")
    write_json([asdict(one) | {"state": one.state} for one in found], json_file)


@group.command("remove", epilog="Example: [cyan]retake runs remove runs/part-1 runs/part-2 --yes[/]")
def remove_runs(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.", show_default=False)],
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove runs: takes, choices, report, scores and log. What else lies in their folders stays."""
    from engine.runs.folder import require_run
    from engine.runs.listing import remove_run, summary_of

    for folder in folders:
        require_run(folder)
    for one in map(summary_of, folders):
        print_line(f"{one.folder}: {counted(one.num_takes, 'take')}, {in_units(one.num_bytes)}")
    if dry_run or not confirm(f"remove {counted(len(folders), 'run')} for good?", yes):
        return
    for folder in folders:
        stays = remove_run(folder)
        print_line(f"removed {folder}" + (f", but for {', '.join(stays)}" if stays else ""))
