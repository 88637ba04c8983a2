"""The command that prints the results table of runs: attempt sets, ensembles, comparisons."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.commands._process import run_module
from engine.commands._app import app


class Format(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"
    LATEX = "latex"
    JSON = "json"


class Score(StrEnum):
    BOTH = "both"
    ORIGINAL = "original"
    VERIFIED = "verified"


@app.command(
    epilog="Example: [cyan]retake score runs/first --all-attempts[/], then [cyan]retake table runs/first "
    '--ensembles "1,2;all" --select consensus+critic_score --compare "2 vs 1" --format latex[/]'
)
def table(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Scored runs (with --all-attempts a row for each round), folders of clips, files of "
            "score --json.",
        ),
    ],
    ensembles: Annotated[
        str, typer.Option(metavar="SETS", help='Sets of row numbers, such as "1,2,5;all".')
    ] = "all",
    select: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Selectors that choose within each ensemble; NAME+NAME is their rank sum. Default: only the "
            "oracle and the loop's own choice.",
        ),
    ] = "",
    compare: Annotated[
        str,
        typer.Option(metavar="ROWS", help='Paired intervals, such as "4 vs 1; {all} oracle vs 4".'),
    ] = "",
    score: Annotated[Score, typer.Option(help="Which Physics-IQ score to show.")] = Score.BOTH,
    form: Annotated[Format, typer.Option("--format", help="LaTeX needs the package booktabs.")] = Format.TEXT,
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
    device: Annotated[str, typer.Option(help="Where networks run: auto, cpu or cuda.")] = "auto",
    dataset: Annotated[
        Path | None, typer.Option(help="Of folders of clips. Default: the dataset of the first run.")
    ] = None,
) -> None:
    """Print runs as a results table: a row for each loop round, ensembles of rows, their gains.

    Runs that differ in their seed alone share their rows as mean and standard deviation. An ensemble that
    chooses by the benchmark score is called oracle: a bound for choosers that do not see it, not a result.
    """
    options: dict[str, object] = {
        "--ensembles": ensembles,
        "--select": select,
        "--compare": compare,
        "--score": score.value,
        "--format": form.value,
        "--device": device,
        **({} if out is None else {"--out": out}),
        **({} if dataset is None else {"--dataset": dataset}),
    }
    pairs = [part for option in options.items() for part in option]
    raise typer.Exit(run_module("table.make", *runs, *pairs))
