"""The command that scores a run or a folder of clips."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.commands._process import run_module
from engine.commands._app import app, print_line
from engine.commands._output import JsonFile, result_file
from engine.errors import ConfigError
from engine.runs.folder import DATABASE
from engine.words import command_line

_HELP = (
    "Score clips against the real ones as Physics-IQ does: Original and Verified score from one pass.\n\n"
    "Complete means a clip of at least 5 s at one frame rate for every take-1 row of descriptions.csv; for "
    "a run folder, for every scenario of that run, so that a run made with --limit is complete with these. "
    "An incomplete folder is refused with the list of what is missing. Clips are never renamed or "
    "edited. Without --json the scores of a run go to scores.json in it.\n\n"
    "The first call on a dataset decodes its real clips, which is most of its time, and keeps what it needs "
    "of them: 30 to 230 MB a case at 4K and 30 fps. Later calls read that. Finished cases are kept too: "
    "repeat an interrupted call and it goes on. A clip or reference that changed is told by its content and "
    "scored anew."
)


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


Jobs = Annotated[
    int | None, typer.Option(min=1, help="Processes, each below 1 GB on 4K clips. Default: one per core.")
]
Cache = Annotated[
    Path | None, typer.Option(help="Folder of the cache. Default: retake in XDG_CACHE_HOME or ~/.cache.")
]
ErrorsOn = Annotated[
    Device,
    typer.Option(
        help="Where squared errors are computed; equal results. They are an eighth of a case's CPU time; "
        "decoding dominates and stays on the CPU. With cuda each process holds a CUDA context as well."
    ),
]


@app.command(
    help=_HELP,
    epilog="Example: [cyan]retake score runs/first[/]   or   "
    "[cyan]retake score runs/first/chosen --dataset scenes/test --csv scores.csv[/]",
)
def score(
    folder: Annotated[
        Path, typer.Argument(help="A run folder, or a folder of mp4 files.", show_default=False)
    ],
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="The benchmark tree, Original or Verified, or the folder that holds it next to "
            "descriptions.csv. Default: the dataset of the run."
        ),
    ] = None,
    json_file: JsonFile = None,
    csv_file: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            callback=result_file,
            help="Values in the official evaluator's columns, for its scripts; replaced.",
        ),
    ] = None,
    all_attempts: Annotated[bool, typer.Option("--all-attempts", help="Score every take as well.")] = False,
    allow_incomplete: Annotated[
        bool,
        typer.Option("--allow-incomplete", help='Score what is there; the JSON says "complete": false.'),
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Score clips, texts or prefixes that are not the run's, and note it."
        ),
    ] = False,
    jobs: Jobs = None,
    cache: Cache = None,
    device: ErrorsOn = Device.CPU,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Keep nothing; an interrupted call starts from the beginning.")
    ] = False,
) -> None:
    """Score clips against the real ones as Physics-IQ does, in a process of its own."""
    from engine.settings.config import read_config

    if dataset is None and not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder} is not a run, so it names no dataset", fix="give --dataset DIR")
    arguments: list[object] = [folder, "--dataset", dataset or read_config(folder).dataset]
    for key, value in {
        "--csv": csv_file,
        "--jobs": jobs,
        "--cache": cache,
        "--device": device.value,
    }.items():
        arguments += [] if value is None else [key, value]
    switches = {
        "--all-attempts": all_attempts,
        "--allow-incomplete": allow_incomplete,
        "--accept-changes": accept_changes,
        "--no-cache": no_cache,
    }
    arguments += [key for key, given in switches.items() if given]
    status = run_module("scoring.physics_iq", *arguments, json_file=json_file)
    if status == 0:
        _say_what_comes_next(folder, dataset, all_attempts)
    raise typer.Exit(status)


def _say_what_comes_next(folder: Path, dataset: Path | None, all_attempts: bool) -> None:
    where = () if dataset is None else ("--dataset", dataset)
    commands = [command_line("retake", "compare", folder, "OTHER", *where)]
    if (folder / DATABASE).is_file():
        rounds = "" if all_attempts else "   (with --all-attempts here it has a row for each round)"
        report, table = (command_line("retake", name, folder) for name in ("report", "table"))
        commands = [report, f"{table}{rounds}", *commands]
    for number, command in enumerate(commands):
        print_line(f"{'     ' if number else 'next:'} {command}")
