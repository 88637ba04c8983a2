"""The command that writes a run as a log for the tools of evaluators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.commands._app import app, print_line
from engine.commands._options import RunFolder


@app.command("eval-log", epilog="Example: [cyan]retake eval-log runs/first --out logs/first.eval[/]")
def eval_log(
    folder: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ends in .eval or .json. Default: inspect.eval in the run folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the run as an evaluation log of Inspect, which `inspect view` shows: prompts, takes, scores."""
    from engine.report.eval_log import DEFAULT_NAME, write_eval_log

    print_line(f"log: {write_eval_log(folder, out or folder / DEFAULT_NAME)}")
