"""The command that runs the whole loop on the bundled models, and scores or measures them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bench.commands._process import run_module
from bench.console import FAILED
from engine.commands._app import app, execute, finish, print_line
from engine.commands._interrupts import STATUS
from engine.commands._options import ConfigFile, new_folder, run_settings, with_settings
from engine.commands._output import result_file
from engine.errors import ConfigError
from engine.settings.config import load_config
from engine.settings.loop import AUTO, BRIEF, PAPER
from engine.words import command_line

MEASURED = {"out": "--work", "loop.loops": "--loops", "generator.steps": "--steps", "device": "--device"}
"""Settings that --measure takes -> the options of bench.quality.demo_quality."""


@app.command(
    epilog="Example: [cyan]retake demo[/]   or, for a first look: [cyan]retake demo --loops 0 --steps 4[/]"
)
@with_settings(without=("dataset",))
def demo(
    given: Mapping[str, object],
    config: ConfigFile = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the bundled models on held-out scenes instead.")
    ] = False,
    count: Annotated[int, typer.Option(help="Held-out scenes of --measure.", min=1)] = 120,
    json_file: Annotated[Path, typer.Option("--json", help="Where --measure writes its figures.")] = Path(
        "runs/demo_quality.json"
    ),
) -> None:
    """Run the whole loop on ten simulated scenes with the bundled models and make the report.

    The scenes are written to the run folder; a dataset that --config names is not used. By default the first
    takes are told the sentence alone, so that the report shows what the plan adds.
    """
    if measure:
        result_file(json_file)
        options = _options_of_measure(given, config)
        raise typer.Exit(run_module("quality.demo_quality", "--out", json_file, "--count", count, *options))
    from engine.build.libraries import importing_ahead
    from engine.build.run import build_run
    from engine.demo.showcase import write_showcase

    loaded = load_config(config, {**given, "dataset": "."}, default_out=new_folder("demo"))
    loaded = replace(loaded, dataset=loaded.out / "dataset")
    if loaded.loop.method == PAPER and loaded.loop.first_prompt == AUTO:
        loaded = replace(loaded, loop=replace(loaded.loop, first_prompt=BRIEF))
        print_line(
            "first prompt: brief, since the demo shows what the plan adds; --first-prompt plan does not"
        )
    print_line(f"writing ten simulated scenes to {loaded.dataset}")
    with importing_ahead(loaded):
        write_showcase(loaded.dataset)
    outcomes = execute(lambda: build_run(loaded))
    status = _score(loaded.out, loaded.dataset)
    finish(loaded.out, outcomes)
    raise typer.Exit(status)


def _score(run: Path, dataset: Path) -> int:
    """The exit status of a demo: its run has ended, so what the scorer refuses is no wrong option, not 2."""
    switches = ("--all-attempts", "--allow-incomplete", "--no-cache")  # a failed scenario is told by `finish`
    status = STATUS
    try:
        status = run_module("scoring.physics_iq", run, "--dataset", dataset, *switches)
    finally:
        if status:
            again = command_line("retake", "score", run, *switches[:2])
            print_line(f"the run has ended and is not scored; to score it: {again}", "yellow")
    return status if status in (0, STATUS) else FAILED


def _options_of_measure(given: Mapping[str, object], config: Path | None) -> list[str]:
    """ConfigError for what the measurement has no option for."""
    options = {entry.key: entry.option for entry in run_settings()}
    refused = [options[key] for key in given if key not in MEASURED]
    refused += [] if config is None else ["--config"]
    if refused:
        allowed = ", ".join(options[key] for key in MEASURED)
        raise ConfigError(
            f"--measure does not take {', '.join(refused)}", fix=f"leave it out; --measure takes {allowed}"
        )
    taken = {"out": new_folder("measure"), **given}
    return [text for key, value in taken.items() for text in (MEASURED[key], str(value))]
