"""The command that chooses again among the takes of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from engine.commands._app import app, console
from engine.commands._options import RunFolder, names, numbers
from engine.commands._output import JsonFile, write_json
from engine.settings.environment import offline
from engine.words import counted


@app.command(epilog="Example: [cyan]retake select runs/first --by consensus,critic_score --attempts 0,1[/]")
def select(
    folder: RunFolder,
    by: Annotated[
        str, typer.Option(metavar="NAME,...", help="Selectors; their ranks are averaged.")
    ] = "critic_score",
    attempts: Annotated[
        str, typer.Option(metavar="N,...", help="Takes to choose from, 0 is the first. Default: all.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the chosen clips, ready to be scored.")] = None,
    states_probe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of the selector states. Default: the run's own.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where networks run: auto, cpu or cuda.")] = "auto",
    json_file: JsonFile = None,
) -> None:
    """Choose again among the stored takes of a run; nothing is generated and the run is not changed."""
    offline()  # before the model libraries are imported
    from engine.build.probing import selector_settings
    from engine.loop.selection import reselect
    from engine.machine.device import resolve_device

    settings = selector_settings(folder, resolve_device(device), names(by), probe=states_probe)
    with console.status(f"reading the takes of {folder}") as status:
        selections = reselect(
            folder,
            by=names(by),
            attempts=numbers(attempts),
            out=out,
            settings=settings,
            progress=lambda done, total: status.update(f"{done} of {counted(total, 'scenario')} compared"),
        )
    table = Table("scenario", "scores by take", "chosen now", f"chosen by {by}", title=str(folder))
    for entry in selections:
        scores = [
            f"{index}: " + (", ".join(f"{value:.3g}" for value in found.values()) or "unscored")
            for index, found in zip(entry.attempts, entry.scores, strict=True)
        ]
        table.add_row(entry.scenario_id, "\n".join(scores), str(entry.before), str(entry.chosen))
    console.print(table)
    moved = sum(entry.before != entry.chosen for entry in selections)
    console.print(
        f"{moved} of {counted(len(selections), 'scenario gets', 'scenarios get')} another take",
        highlight=False,
    )
    document = {"run": folder, "by": names(by), "scenarios": [asdict(entry) for entry in selections]}
    write_json(document, json_file)
