"""The command that compares two sets of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands._process import run_module
from engine.commands._app import app
from engine.commands._output import JsonFile

Side = typer.Argument(
    help="A run (its clips in chosen/), a folder of mp4 files, or a file of score --json.", show_default=False
)


@app.command(
    epilog="Example: [cyan]retake compare runs/first runs/whole[/]   or folders of clips: "
    "[cyan]retake compare runs/first/chosen runs/whole/chosen --dataset scenes/test[/]"
)
def compare(
    first: Annotated[Path, Side],
    second: Annotated[Path, Side],
    dataset: Annotated[
        Path | None, typer.Option(help="The benchmark tree. Default: the dataset of the first run.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Compare two sets of clips over one dataset: the difference of both scores with its interval.

    The difference is paired, over all cases that both have and by category. What is not scored yet is scored
    first, and kept in the scorer's cache.
    """
    given = () if dataset is None else ("--dataset", dataset)
    raise typer.Exit(run_module("table.compare", first, second, *given, json_file=json_file))
