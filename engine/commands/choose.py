"""The command by which the user chooses the take of a scenario."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.commands._app import app, print_line
from engine.commands._options import RunFolder
from engine.errors import ConfigError
from engine.words import command_line

Scenario = Annotated[
    str, typer.Argument(metavar="ID", help="The scenario, as the report names it.", show_default=False)
]
Take = Annotated[
    int | None,
    typer.Argument(metavar="TAKE", help="Its number: 2 for attempt-2.mp4.", show_default=False),
]
Undo = Annotated[bool, typer.Option("--undo", help="Go back to the take that the loop chose.")]


@app.command(
    epilog="Example: [cyan]retake choose runs/first 0001_perspective-center 0[/]   and back: "
    "[cyan]retake choose runs/first 0001_perspective-center --undo[/]"
)
def choose(folder: RunFolder, scenario: Scenario, take: Take = None, undo: Undo = False) -> None:
    """Choose another take of one scenario than the loop did; the clip in chosen/ and the report follow.

    The choice is kept with the run, beside the loop's own: resume and merge keep it, score scores it, and
    each says whose it is. Choosing the loop's take again is the same as --undo.
    """
    from engine.report.write import SCORES, write_report
    from engine.runs import choices

    if (take is None) != undo:
        problem = "no take is named" if take is None else f"take {take} and --undo exclude one another"
        raise ConfigError(
            problem,
            fix=f"{command_line('retake', 'choose', folder, scenario, 'TAKE')}, or --undo instead of TAKE",
        )
    before, after = choices.choose(folder, scenario, take)
    same = " already" if before.chosen == after.chosen else ""
    print_line(f"{scenario}: {choices.describe(after)}{same}")
    if after.overruled is not None:
        print_line(f"undo: {choices.command(folder, scenario, None)}")
    if not same and (folder / SCORES).is_file():
        again = command_line("retake", "score", folder)
        print_line(f"{SCORES} is of the takes that were chosen before; score again: {again}")
    print_line(f"report: {write_report(folder)}")
