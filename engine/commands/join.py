"""The command that makes files to post of the chosen takes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine.commands._app import app, print_line
from engine.commands._options import RunFolder
from engine.commands._output import JsonFile, write_json

Scenario = Annotated[
    str | None,
    typer.Argument(
        metavar="ID", help="One scenario, as the report names it. Default: all.", show_default=False
    ),
]


@app.command(epilog="Example: [cyan]retake join runs/first 0001_perspective-center --with-prefix[/]")
def join(
    folder: RunFolder,
    scenario: Scenario = None,
    with_prefix: Annotated[
        bool, typer.Option("--with-prefix", help="The clip that the take continues in front, with its sound.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files. Default: joined/ in the run folder.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Make a file to post of each chosen take: at the size, rate and shape of the clip that it continues.

    chosen/ holds the same takes as the model made them, 5 s at its own size and rate: these are scored.
    """
    from engine.report.joined import write_joined

    posts = []
    for post in write_joined(folder, scenario, out=out, with_prefix=with_prefix):
        posts.append(post)
        if post.made is None:
            print_line(f"{post.scenario_id}: {post.problem}; {post.fix}", "red")
            continue
        made = post.made
        print_line(
            f"{post.path}: take {post.take}, {made.width}x{made.height}, {made.fps:g} fps, "
            f"{made.seconds:.2f} s, sound: {made.sound or f'none, {made.silent}'}"
        )
    write_json({"run": folder, "joined": [asdict(post) for post in posts]}, json_file)
    if any(post.made is None for post in posts):
        raise typer.Exit(1)
