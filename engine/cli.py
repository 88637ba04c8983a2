"""The command line: parse, call, print. Every verb is a few lines over a function that works without it.

Decides nothing: settings are checked by config, names by plugins, folders by their readers. Only commands
that run a model import torch. Exit status: 0 done, 1 a scenario or a check failed, 2 the user's error.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from engine.errors import ConfigError, RetakeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.build import Run
    from engine.types import Outcome

console = Console()
errors = Console(stderr=True)


class _Group(TyperGroup):
    """Prints a user's error as a red panel instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RetakeError as error:
            body = Text.assemble(error.problem, "\n\n", ("Fix: ", "bold"), error.fix)
            errors.print(Panel(body, title=type(error).__name__, title_align="left", border_style="red"))
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Generate video, let a local vision-language model judge it against physics, rewrite the prompt, "
    "generate again, keep the best take.",
    epilog="Start with [cyan]retake demo[/], then [cyan]retake scenes[/] and [cyan]retake run[/]. "
    "[cyan]retake doctor[/] says what this machine can run.",
)

Dataset = Annotated[
    Path | None,
    typer.Argument(help="A Physics-IQ folder, or a folder of your own clips.", show_default=False),
]
RunFolder = Annotated[Path, typer.Argument(help="A run folder, as given to --out.", show_default=False)]
Generator = Annotated[
    str | None,
    typer.Option(metavar="NAME_OR_DIR", help="'demo' (bundled, the default) or a diffusers folder."),
]
Critic = Annotated[
    str | None,
    typer.Option(metavar="NAME_OR_DIR", help="'demo' (bundled, the default) or a transformers folder."),
]
Quantization = Annotated[str | None, typer.Option(help="Of the critic: none, nf4 or int8.")]
Loops = Annotated[int | None, typer.Option(help="Refinement rounds after the first take. Default 4.")]
Steps = Annotated[int | None, typer.Option(help="Denoise steps. Default: what the model folder says.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale; 1 switches it off.")]
Negative = Annotated[str | None, typer.Option(help="Negative prompt.")]
Seed = Annotated[int | None, typer.Option(help="Equal seeds give equal takes. Default 0.")]
OnlyIncomplete = Annotated[
    bool | None,
    typer.Option("--only-incomplete", help="Refine only where the critic calls the prompt incomplete."),
]
Selectors = Annotated[
    str | None, typer.Option(metavar="NAME,...", help="Choosers of the best take. Default critic_score.")
]
Limit = Annotated[int | None, typer.Option(help="Only the first N scenarios.")]
Out = Annotated[Path | None, typer.Option(help="Run folder to make. Default: a new one in runs/.")]
Overlap = Annotated[
    bool | None,
    typer.Option("--overlap/--no-overlap", help="Judge one scenario while another is generated. Default on."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML with the same settings; options win over it.")
]


def main() -> None:
    """The entry point `retake`."""
    app()


@app.command(epilog="Example: [cyan]retake demo[/]   or   [cyan]retake demo --measure --count 120[/]")
def demo(
    out: Out = None,
    loops: Loops = None,
    steps: Steps = None,
    device: Device = None,
    overlap: Overlap = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the bundled models on held-out scenes instead.")
    ] = False,
    count: Annotated[int, typer.Option(help="Held-out scenes of --measure.", min=1)] = 120,
    json_file: Annotated[Path, typer.Option("--json", help="Where --measure writes its figures.")] = Path(
        "runs/demo_quality.json"
    ),
) -> None:
    """Run the whole loop on six simulated scenes with the bundled models and make the report."""
    if measure:
        given = {"--loops": loops, "--steps": steps, "--device": device}
        extra = [text for key, value in given.items() if value is not None for text in (key, str(value))]
        work = out or _new_folder("measure")
        raise typer.Exit(_bench("demo_quality", "--out", json_file, "--count", count, "--work", work, *extra))
    from engine.build import build_run
    from engine.config import load_config
    from engine.demo.showcase import write_showcase

    out = out or _new_folder("demo")
    settings = {"loop.loops": loops, "generator.steps": steps, "device": device, "schedule.overlap": overlap}
    config = load_config(None, {"dataset": str(out / "dataset"), "out": str(out), **settings})
    console.print(f"writing six simulated scenes to {config.dataset}", highlight=False)
    write_showcase(config.dataset)
    outcomes = _execute(lambda: build_run(config))
    status = _bench("physics_iq", config.out, "--dataset", config.dataset, "--all-attempts")
    _finish(config.out, outcomes)
    raise typer.Exit(status)


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
    from engine.config import usable_cores
    from engine.demo.showcase import write_scenes

    with console.status("rendering") as status:
        write_scenes(
            out,
            seeds=range(seed, seed + count),
            size_px=size,
            views=_names(views),
            kinds=_names(kinds),
            workers=min(usable_cores(), count),
            progress=lambda done, total: status.update(f"rendering: {done} of {total} clips"),
        )
    console.print(
        f"{count} scenes in {out}; run them with: retake run {out}", highlight=False, soft_wrap=True
    )


@app.command(epilog="Example: [cyan]retake run scenes/test --loops 2 --steps 16 --out runs/first[/]")
def run(
    dataset: Dataset = None,
    generator: Generator = None,
    critic: Critic = None,
    quantization: Quantization = None,
    loops: Loops = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    negative: Negative = None,
    seed: Seed = None,
    only_incomplete: OnlyIncomplete = None,
    selectors: Selectors = None,
    limit: Limit = None,
    out: Out = None,
    overlap: Overlap = None,
    device: Device = None,
    dtype: Dtype = None,
    config: ConfigFile = None,
) -> None:
    """Run the refinement loop over a dataset: plan, generate, critique, rewrite, generate again, choose."""
    from engine.build import build_run
    from engine.config import load_config

    overrides = {
        "dataset": None if dataset is None else str(dataset),
        "out": None if out is None else str(out),
        "generator.name": generator,
        "generator.steps": steps,
        "generator.guidance_scale": guidance_scale,
        "generator.negative": negative,
        "critic.name": critic,
        "critic.quantization": quantization,
        "loop.loops": loops,
        "loop.seed": seed,
        "loop.only_incomplete": only_incomplete,
        "loop.selectors": None if selectors is None else _names(selectors),
        "limit": limit,
        "schedule.overlap": overlap,
        "device": device,
        "dtype": dtype,
    }
    loaded = load_config(config, overrides, default_out=_new_folder("run"))
    _finish(loaded.out, _execute(lambda: build_run(loaded)))


@app.command(epilog="Example: [cyan]retake resume runs/first[/]")
def resume(folder: RunFolder) -> None:
    """Go on with a run that was stopped or killed; finished attempts are kept, failed scenarios retried."""
    from engine.build import resume_run

    _finish(folder, _execute(lambda: resume_run(folder)))


@app.command(epilog="Example: [cyan]retake report runs/first[/]")
def report(folder: RunFolder) -> None:
    """Write the run as one HTML page: videos, prompts, critiques, scores, timeline."""
    from engine.report import write_report

    console.print(f"report: {write_report(folder)}", highlight=False, soft_wrap=True)


@app.command(
    epilog="Example: [cyan]retake score runs/first[/]   or   "
    "[cyan]retake score my_clips --dataset physics-IQ-benchmark --csv scores.csv[/]"
)
def score(
    folder: Annotated[
        Path, typer.Argument(help="A run folder, or a folder of mp4 files.", show_default=False)
    ],
    dataset: Annotated[Path | None, typer.Option(help="Default: the dataset of the run.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Default: scores.json in the run.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Values in the official columns.")] = None,
    all_attempts: Annotated[bool, typer.Option("--all-attempts", help="Score every take as well.")] = False,
) -> None:
    """Score chosen takes against the reference clips as Physics-IQ does, in a process of its own."""
    from engine.config import read_config

    if dataset is None and not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder} is not a run, so it names no dataset", fix="give --dataset DIR")
    arguments: list[object] = [folder, "--dataset", dataset or read_config(folder).dataset]
    for key, value in {"--json": json_file, "--csv": csv_file}.items():
        arguments += [] if value is None else [key, value]
    raise typer.Exit(_bench("physics_iq", *arguments, *(["--all-attempts"] if all_attempts else [])))


@app.command(epilog="Example: [cyan]retake select runs/first --by consensus,critic_score --attempts 0,1,2[/]")
def select(
    folder: RunFolder,
    by: Annotated[
        str, typer.Option(metavar="NAME,...", help="Selectors; their ranks are averaged.")
    ] = "critic_score",
    attempts: Annotated[
        str, typer.Option(metavar="N,...", help="Takes to choose from, 0 is the first. Default: all.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the chosen clips, ready to be scored.")] = None,
) -> None:
    """Choose again among the stored takes of a run; nothing is generated and the run is not changed."""
    from engine.selection import reselect

    selections = reselect(folder, by=_names(by), attempts=_numbers(attempts), out=out)
    table = Table("scenario", "scores by take", "chosen by the run", f"chosen by {by}", title=str(folder))
    for entry in selections:
        scores = [
            f"{index}: " + (", ".join(f"{value:.3g}" for value in found.values()) or "unscored")
            for index, found in zip(entry.attempts, entry.scores, strict=True)
        ]
        table.add_row(entry.scenario_id, "\n".join(scores), str(entry.before), str(entry.chosen))
    console.print(table)
    moved = sum(entry.before != entry.chosen for entry in selections)
    console.print(f"{moved} of {len(selections)} scenarios get another take", highlight=False)


@app.command(epilog="Example: [cyan]retake plan physics-IQ-benchmark --generator wan2.2-ti2v --steps 32[/]")
def plan(
    dataset: Dataset = None,
    generator: Generator = None,
    critic: Critic = None,
    quantization: Quantization = None,
    loops: Loops = None,
    steps: Steps = None,
    limit: Limit = None,
    overlap: Overlap = None,
    device: Device = None,
    dtype: Dtype = None,
    config: ConfigFile = None,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Load the models and time them.")] = True,
) -> None:
    """Say what a run would need before it starts: memory part by part, and time at most."""
    from engine.build import plan_run
    from engine.config import load_config

    overrides = {
        "dataset": None if dataset is None else str(dataset),
        "generator.name": generator,
        "generator.steps": steps,
        "critic.name": critic,
        "critic.quantization": quantization,
        "loop.loops": loops,
        "limit": limit,
        "schedule.overlap": overlap,
        "device": device,
        "dtype": dtype,
    }
    needs = plan_run(load_config(config, overrides, default_out=_new_folder("run")), timed=timed)
    header, *rows = needs.memory.table()
    table = Table(*header, title="memory")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"{needs.num_scenarios} scenarios, {needs.num_refused} of them unusable", highlight=False)
    if needs.time is not None:
        console.print(needs.time.describe(), highlight=False)


@app.command(epilog="Example: [cyan]retake doctor[/]")
def doctor() -> None:
    """Say what this machine can run, and the fix for each thing that is missing."""
    from engine.config import offline
    from engine.doctor import can_run, examine

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


def _execute(build: Callable[[], Run]) -> Mapping[str, Outcome]:
    """Run to the end with live progress. An interrupt leaves the run folder resumable."""
    from engine.progress import make_display

    with console.status("checking settings, dataset and memory, then loading models"):
        built = build()
    try:
        with built, make_display(console, built.num_pending) as display:
            return built.execute(display)
    except KeyboardInterrupt:
        console.print(f"\nstopped; go on with: retake resume {built.folder}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


def _finish(folder: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Report and summary; status 1 when a scenario failed."""
    from engine.progress import describe_outcome
    from engine.report import write_report

    failed = [outcome for outcome in outcomes.values() if outcome.failure is not None]
    for outcome in failed:
        console.print(describe_outcome(outcome), style="red", markup=False, highlight=False, soft_wrap=True)
    takes = sum(len(outcome.attempts) for outcome in outcomes.values())
    console.print(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} scenarios done, {takes} takes, "
        f"{len(failed)} failed",
        highlight=False,
    )
    console.print(f"report: {write_report(folder)}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _bench(suite: str, *arguments: object) -> int:
    """Exit status of a benchmark in its own process: it reads references, so the engine never imports it."""
    command = [sys.executable, "-m", f"bench.suites.{suite}", *map(str, arguments)]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        errors.print(f"bench.suites.{suite} ended with status {status}", style="red", highlight=False)
    return status


def _new_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def _numbers(text: str) -> list[int]:
    for part in _names(text):
        if not part.isdecimal():
            raise ConfigError(f"{part!r} is not the number of a take", fix="give numbers such as 0,1,2")
    return [int(part) for part in _names(text)]


if __name__ == "__main__":
    main()
