"""The command that joins the run folders of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine.commands._app import app, console, print_line
from engine.words import command_line, counted


@app.command(
    epilog="Example: [cyan]retake run scenes/test --loops 1 --steps 8 --shard 1/2 --out runs/part-1[/], on "
    "another machine [cyan]retake run scenes/test --loops 1 --steps 8 --shard 2/2 --out runs/part-2[/], then "
    "[cyan]retake merge runs/part-1 runs/part-2 --out runs/whole[/]"
)
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, as given to --out.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
    dataset: Annotated[
        Path | None, typer.Option(help="Where the dataset of the runs is now, if it was moved.")
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Join runs of other weights, prefixes or versions too, and note that in the manifest.",
        ),
    ] = False,
) -> None:
    """Join the runs of --shard K/N into one run folder; the runs are read, never changed.

    Of a scenario that several runs hold the finished one is kept. Unfinished scenarios keep the takes they
    have, and scenarios of the dataset that no run holds are pending: `retake resume` goes on with both.
    """
    from engine.build.merge import merge as join

    columns = (TextColumn("scenarios"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("scenarios", total=None)
        merged = join(
            runs,
            out,
            dataset=dataset,
            accept_changes=accept_changes,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print_line(
        f"{out}: {merged.num_finished} of {counted(merged.num_scenarios, 'scenario')} finished, "
        f"{counted(merged.num_takes, 'take')}"
    )
    for line in merged.users_choices:
        print_line(line)
    if not merged.has_trace:
        print_line("without a timeline: some of the runs have no trace.json")
    if merged.pending:
        print_line(f"{len(merged.pending)} are pending, the first {merged.pending[0]}")
        print_line(f"finish them with: {command_line('retake', 'resume', out)}")
