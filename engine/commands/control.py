"""The commands that ask something of a run while it goes on: pause, unpause, skip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.commands._app import app, print_line
from engine.commands._options import RunFolder
from engine.errors import StoreError
from engine.types import Wish
from engine.words import command_line

OneOrAll = Annotated[
    str | None, typer.Argument(metavar="ID", help="One scenario, as the report names it.", show_default=False)
]
One = Annotated[
    str, typer.Argument(metavar="ID", help="The scenario, as the report names it.", show_default=False)
]
Undo = Annotated[bool, typer.Option("--undo", help="Have it made after all.")]


@app.command(
    epilog="Example: [cyan]retake pause runs/first[/]   one scenario: "
    "[cyan]retake pause runs/first 0001_perspective-center[/]"
)
def pause(folder: RunFolder, scenario: OneOrAll = None) -> None:
    """Let a run that goes on wait after its next step, or one scenario of it after what is in hand.

    Models stay loaded, and nothing that was begun is lost. A run that is resumed goes on.
    """
    _require_live(folder)
    _require_unfinished(folder, scenario)
    _ask(folder, Wish.PAUSE, scenario, "waits from its next step on" if scenario is None else "waits")
    again = command_line("retake", "unpause", folder, *([scenario] if scenario else ()))
    print_line(f"to go on: {again}")


@app.command(epilog="Example: [cyan]retake unpause runs/first[/]")
def unpause(folder: RunFolder, scenario: OneOrAll = None) -> None:
    """Let a paused run go on, with all of its scenarios or with one."""
    _require_live(folder)
    _require_unfinished(folder, scenario)
    _ask(folder, Wish.UNPAUSE, scenario, "goes on")


@app.command(
    epilog="Example: [cyan]retake skip runs/first 0001_perspective-center[/]   and back: "
    "[cyan]retake skip runs/first 0001_perspective-center --undo[/]"
)
def skip(folder: RunFolder, scenario: One, undo: Undo = False) -> None:
    """End one scenario here, with the best of its takes; without a take it counts as failed.

    Of a run that goes on, at the next step; of one that was stopped, when it is resumed. Resuming does not
    retry it.
    """
    from engine.runs.folder import is_live

    if undo:
        _unskip(folder, scenario)
        return
    _require_unfinished(folder, scenario)
    live = is_live(folder)
    _ask(folder, Wish.SKIP, scenario, "ends at the next step" if live else "ends when the run is resumed")


def _ask(folder: Path, wish: Wish, scenario: str | None, what: str) -> None:
    from engine.runs.requests import ask

    ask(folder, wish, scenario)
    print_line(f"{scenario or folder}: {what}")


def _require_live(folder: Path) -> None:
    from engine.runs.folder import is_live, require_run
    from engine.runs.listing import summary_of

    require_run(folder)
    if not is_live(folder):
        if summary_of(folder).state == "finished":
            raise StoreError(
                f"{folder} is finished",
                fix=f"see what came of it: {command_line('retake', 'report', folder)}",
            )
        raise StoreError(
            f"{folder} is not running", fix=f"go on with it: {command_line('retake', 'resume', folder)}"
        )


def _require_unfinished(folder: Path, scenario: str | None) -> None:
    """Of the run, if one is named."""
    from engine.runs.choices import require_scenario
    from engine.runs.store import RunStore

    with RunStore.open(folder, read_only=True) as store:
        if scenario is None:
            return
        require_scenario(store, scenario)
        if scenario in store.overview.choices():
            raise StoreError(
                f"{scenario} is finished",
                fix="name one that is not, or choose another take: "
                + command_line("retake", "choose", folder, scenario, "TAKE"),
            )


def _unskip(folder: Path, scenario: str) -> None:
    """Of a run that goes on only before it saw that the scenario is to be skipped."""
    from engine.runs.choices import require_scenario
    from engine.runs.folder import is_live
    from engine.runs.requests import Requests, ask
    from engine.runs.store import RunStore

    live = is_live(folder)
    with RunStore.open(folder, read_only=live) as store:
        require_scenario(store, scenario)
        if not live:
            known = [one.id for one in store.scenarios()]
            if scenario not in Requests(folder, store.requests, known).look().skipped:
                raise StoreError(f"{scenario} is not skipped", fix="see the report for those that are")
            store.requests.record([ask(folder, Wish.UNSKIP, scenario)])
            print_line(
                f"{scenario}: is made when the run is resumed: {command_line('retake', 'resume', folder)}"
            )
            return
        if scenario in store.overview.choices():
            raise StoreError(
                f"{scenario} is finished, and the run goes on",
                fix="wait for its end, or stop it; then repeat this and `retake resume` it",
            )
    _ask(folder, Wish.UNSKIP, scenario, "is made")
