"""The typer app, the options that several commands share, and how a run is executed and summed up.

Knows no command. A user's error is printed as a panel with its fix, never as a traceback. Exit status: 0 all
done, 1 a scenario or a check failed, 2 the user's error.
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
from rich.text import Text
from typer.core import TyperGroup

from engine.errors import ConfigError, RetakeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.build.run import Run
    from engine.types import Outcome

console = Console()
errors = Console(stderr=True)

ORDER = (
    *("demo", "scenes", "run", "resume", "merge", "plan", "report"),
    *("score", "table", "select", "prepare", "submit", "dataset", "doctor"),
)
"""Of the commands in --help; others follow by name."""


class _Group(TyperGroup):
    """Prints a user's error as a red panel instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RetakeError as error:
            body = Text.assemble(error.problem, "\n\n", ("Fix: ", "bold"), error.fix)
            errors.print(Panel(body, title=type(error).__name__, title_align="left", border_style="red"))
            raise typer.Exit(2) from error

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


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
Loops = Annotated[int | None, typer.Option(help="Refinement rounds after the first one. Default 4.")]
Samples = Annotated[
    int | None,
    typer.Option(help="Takes of each round, each of its own seed; selectors choose the one to judge."),
]
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
Preset = Annotated[
    str | None,
    typer.Option(
        help="exact, fast or fastest: how fast at what cost. Default exact; parts: [denoise] in TOML."
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Attention in the order to try: see retake kernels."),
]
QuantizedAttention = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="8-bit attention at the middle noise levels; auto: one that is faster than all exact ones.",
    ),
]
Linear = Annotated[str | None, typer.Option(help="bf16, fp8, int8 or auto: products of the inner blocks.")]
Policy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME_OR_FILE",
        help="auto: what auto leaves open follows the table measured for these weights; off; or a file.",
    ),
]
Compile = Annotated[str | None, typer.Option("--compile", help="off, on or auto: compile each block.")]
CfgGate = Annotated[
    float | None, typer.Option(help="Share of the steps that run both branches of guidance, 0 to 1.")
]
StepCache = Annotated[float | None, typer.Option(help="Share of the steps that are extrapolated, 0 to 0.5.")]
EarlyStop = Annotated[
    float | None,
    typer.Option(help="Ends a take whose preview changes less than this in a step; 0: never."),
]
Denoiser = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_TARGET",
        help="An artifact of retake export, or onnx, aoti, tensorrt, tensorrt-rtx: the newest that fits.",
    ),
]
AllowFallback = Annotated[
    bool | None,
    typer.Option("--allow-fallback", help="Where --denoiser cannot be had, use the module, with a warning."),
]
Limit = Annotated[int | None, typer.Option(help="Only the first N scenarios.")]
Shard = Annotated[
    str | None,
    typer.Option(metavar="K/N", help="Only the K-th of N parts, one run per GPU or process."),
]
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


def execute(build: Callable[[], Run]) -> Mapping[str, Outcome]:
    """Run to the end with live progress. An interrupt leaves the run folder resumable."""
    from engine.commands._progress import make_display

    with console.status("checking settings, dataset and memory, then loading models"):
        built = build()
    if built.warning is not None:
        body = Text.assemble(built.warning, "\n\nThe generator's own denoiser runs instead.")
        errors.print(Panel(body, title="Fallback", title_align="left", border_style="yellow"))
    try:
        with built, make_display(console, built.num_pending) as display:
            return built.execute(display)
    except KeyboardInterrupt:
        console.print(f"\nstopped; go on with: retake resume {built.folder}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


def finish(folder: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Report and summary; status 1 when a scenario failed."""
    from engine.commands._progress import describe_outcome
    from engine.report.write import write_report

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


def bench(suite: str, *arguments: object) -> int:
    """Exit status of a benchmark in its own process: it reads references, so the engine never imports it."""
    command = [sys.executable, "-m", f"bench.{suite}", *map(str, arguments)]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        errors.print(f"bench.{suite} ended with status {status}", style="red", highlight=False)
    return status


def new_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def say(text: str, style: str | None = None) -> None:
    """One line as it is, which a terminal wraps and a pipe keeps whole."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def numbers(text: str) -> list[int]:
    for part in names(text):
        if not part.isdecimal():
            raise ConfigError(f"{part!r} is not the number of a take", fix="give numbers such as 0,1,2")
    return [int(part) for part in names(text)]
