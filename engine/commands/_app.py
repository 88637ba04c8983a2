"""The typer app, its console, and how a run is executed and summed up.

Knows no command. A user's error is printed as a panel with its fix, never as a traceback. Exit status: 0 all
done, 1 a scenario or a check failed, 2 the user's error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperGroup

from engine.errors import RetakeError

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
    from engine.commands._progress import describe_outcome, odd_takes
    from engine.report.write import write_report

    for line in odd_takes(folder, outcomes.values()):
        print_line(line, "yellow")
    failed = [outcome for outcome in outcomes.values() if outcome.failure is not None]
    for outcome in failed:
        console.print(describe_outcome(outcome), style="red", markup=False, highlight=False, soft_wrap=True)
    takes = sum(len(outcome.attempts) for outcome in outcomes.values())
    console.print(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} scenarios done, {takes} takes, "
        f"{len(failed)} failed",
        highlight=False,
    )
    print_line(f"report: {write_report(folder)}")
    if failed:
        raise typer.Exit(1)


def print_line(text: str, style: str | None = None) -> None:
    """One line as it is, which a terminal wraps and a pipe keeps whole."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
