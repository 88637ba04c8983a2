"""The commands around a run: scenes to run on, the report, and what this machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from engine.commands._app import RunFolder, app, console, names


@app.command(epilog="Example: [cyan]retake scenes scenes/train --seed 0 --count 20 --views center[/]")
def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Seed of the first scene; the others follow.", min=0)] = 0,
    count: Annotated[int, typer.Option(help="Number of scenes.", min=1)] = 12,
    size: Annotated[int, typer.Option(help="Width and height in pixels, even.", min=64, max=2048)] = 128,
    views: Annotated[str, typer.Option(help="Of left,center,right.")] = "left,center,right",
    kinds: Annotated[str, typer.Option(metavar="NAME,...", help="Kinds of scenes. Default: all.")] = "",
) -> None:
    """Simulate and render scenes in the layout of Physics-IQ: clips, masks, two takes, descriptions.csv."""
    from engine.demo.showcase import write_scenes
    from engine.settings.environment import usable_cores

    with console.status("rendering") as status:
        write_scenes(
            out,
            seeds=range(seed, seed + count),
            size_px=size,
            views=names(views),
            kinds=names(kinds),
            workers=min(usable_cores(), count),
            progress=lambda done, total: status.update(f"rendering: {done} of {total} clips"),
        )
    console.print(
        f"{count} scenes in {out}; run them with: retake run {out}", highlight=False, soft_wrap=True
    )


@app.command(epilog="Example: [cyan]retake report runs/first[/]")
def report(folder: RunFolder) -> None:
    """Write the run as one HTML page: videos, prompts, critiques, scores, timeline."""
    from engine.report.write import write_report

    console.print(f"report: {write_report(folder)}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: [cyan]retake doctor[/]")
def doctor() -> None:
    """Say what this machine can run, and the fix for each thing that is missing."""
    from engine.build.doctor import can_run, examine
    from engine.settings.environment import offline

    offline()
    checks = examine()
    table = Table("", "what", "found", "fix")
    for check in checks:
        mark = Text("ok", "green") if check.ok else Text("no", "bold red" if check.required else "yellow")
        table.add_row(mark, check.name, Text(check.detail), Text(check.fix))
    console.print(table)
    if not can_run(checks):
        console.print("the default run cannot work here: mend what is marked in red", style="red")
        raise typer.Exit(1)
    console.print("the default run works here; yellow lines are options this machine lacks")
