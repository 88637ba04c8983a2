"""The command that simulates scenes to run on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.commands._app import app, console, print_line
from engine.commands._options import names
from engine.words import command_line, counted


@app.command(epilog="Example: [cyan]retake scenes scenes/test --seed 2000000 --count 2 --views center[/]")
def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the first scene; the others follow. Default: 2000000, scenes of no set. Below "
            "1000000 they are scenes that models were trained on; of the world wide 240 from 1200000 are "
            "held out, to measure on, and 120 from 1605000 are for tuning.",
            min=0,
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Number of scenes.", min=1)] = 12,
    size: Annotated[int, typer.Option(help="Width and height in pixels, even.", min=64, max=2048)] = 128,
    views: Annotated[str, typer.Option(help="Of left,center,right.")] = "left,center,right",
    kinds: Annotated[str, typer.Option(metavar="NAME,...", help="Kinds of scenes. Default: all.")] = "",
    world: Annotated[
        str | None, typer.Option(help="plain or wide. Default: the one that the bundled models know.")
    ] = None,
) -> None:
    """Simulate and render scenes in the layout of Physics-IQ: clips, masks, two takes, descriptions.csv."""
    from engine.demo.scenes import DEFAULT_WORLD
    from engine.demo.scenes.seeds import MEANT_FOR, TRAINING, UNUSED_SEED0, first_held_out, parts_of
    from engine.demo.showcase import write_scenes
    from engine.settings.environment import usable_cores

    world = DEFAULT_WORLD if world is None else world
    first = UNUSED_SEED0 if seed is None else seed
    seeds = range(first, first + count)
    with console.status("rendering") as status:
        write_scenes(
            out,
            seeds=seeds,
            size_px=size,
            views=names(views),
            kinds=names(kinds),
            world=world,
            workers=min(usable_cores(), count),
            progress=lambda done, total: status.update(f"rendering: {done} of {counted(total, 'clip')}"),
        )
    console.print(
        f"{counted(count, 'scene')} in {out}; run them with: {command_line('retake', 'run', out)}",
        highlight=False,
        soft_wrap=True,
    )
    for part, num in parts_of(seeds, world).items():
        print_line(
            f"{counted(num, f'{part} scene')}: {MEANT_FOR[part]}", "yellow" if part == TRAINING else None
        )
        if part == TRAINING:
            print_line(f"for held-out scenes give --seed {first_held_out(world)}", "yellow")
