"""The commands about a dataset on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from engine.commands._app import app, console, print_line
from engine.commands._output import Commands
from engine.errors import ConfigError
from engine.words import command_line, counted

if TYPE_CHECKING:
    from bench.dataset.check import TreeReport

group = Commands(
    no_args_is_help=True,
    help="Look after a dataset on disk.",
    epilog="Example: [cyan]retake dataset check scenes/test[/]",
)
app.add_typer(group, name="dataset")


@group.callback()
def dataset() -> None:
    """Look after a dataset on disk."""


@group.command(epilog="Example: [cyan]retake dataset check scenes/test --fps 8[/]")
def check(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A Physics-IQ tree, original or Verified, what retake scenes wrote, or a folder of your own "
            "clips.",
            show_default=False,
        ),
    ],
    fps: Annotated[
        int | None, typer.Option(help="Only this frame rate. Default: each that is there.")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every frame, not the headers alone.")] = False,
) -> None:
    """Check a Physics-IQ tree for completeness: descriptions, names, lengths, rates, masks, switch frames.

    Says which tree it is and how to obtain what is missing. Of your own clips it checks that each has a text
    and is read as a run reads it. Status 1 when something is wrong.
    """
    from bench.dataset.check import check_dataset, how_to_obtain
    from bench.dataset.own_clips import check_clips, holds_clips
    from engine.build.opened_dataset import is_benchmark, require_dataset
    from engine.settings.environment import usable_cores

    require_dataset(folder)
    if not is_benchmark(folder) and holds_clips(folder):
        if fps is not None:
            raise ConfigError(
                "--fps is for benchmark trees; your own clips are read at any rate", fix="leave out --fps"
            )
        with console.status("reading the clips") as status:
            report = check_clips(folder, deep=deep, progress=lambda name: status.update(f"checking {name}"))
        _print(report)
        if report.num_faults:
            raise typer.Exit(1)
        print_line(f"run them with: {command_line('retake', 'run', folder)}")
        return
    with console.status("reading descriptions.csv") as status:
        report = check_dataset(
            folder,
            fps=fps,
            deep=deep,
            workers=usable_cores(),
            progress=lambda name: status.update(f"checking {name}"),
        )
    _print(report)
    for step in how_to_obtain(report, fps):
        print_line(f"to obtain what is missing: {step}")
    if report.num_faults:
        raise typer.Exit(1)


def _print(report: TreeReport) -> None:
    from engine.datasets.physics_iq import NUM_CASES

    whole = "complete benchmark" if report.num_cases == NUM_CASES else "reduced or simulated dataset"
    title = {
        "original": f"Physics-IQ, original, {whole}",
        "verified": f"Physics-IQ Verified, {whole}",
        "unknown": f"named neither as the original nor as the Verified tree, {whole}",
        "own clips": "your own clips",
    }[report.kind]
    table = Table("", "what", title=f"{report.tree}: {title}")
    table.add_column("found", overflow="fold")
    table.add_column("wrong", overflow="fold")
    for line in report.lines:
        mark = Text("no", "bold red") if line.faults else Text("ok", "green")
        table.add_row(mark, line.what, Text(line.found), Text("\n".join(line.faults)))
    console.print(table)
    verdict = counted(report.num_faults, "fault") if report.num_faults else "no fault found"
    console.print(f"{counted(report.num_cases, 'case')}: {verdict}", highlight=False, soft_wrap=True)
