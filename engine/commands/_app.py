"""The typer app, and how a run is executed and summed up.

Knows no command. A user's error is printed as a panel with its fix, never as a traceback. Exit status: 0 all
done, 1 a scenario, a check or the machine failed, 2 the user's error, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperGroup

from engine.commands._interrupts import STATUS, interruptible
from engine.commands._output import Commands, Quiet, Verbose, print_version, speak, speaking, write_json
from engine.commands._output import console as console
from engine.commands._output import errors as errors
from engine.commands._output import print_line as print_line
from engine.errors import DeviceError, RetakeError, RunLost, SystemRefused
from engine.runs.folder import CHOSEN
from engine.runs.log_file import LOG
from engine.words import command_line, counted
from kernels.files import meant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.build.run import Run
    from engine.cluster.run import ClusterRun
    from engine.types import Outcome, Scout

ORDER = (
    *(
        "demo",
        "scenes",
        "run",
        "resume",
        "watch",
        "pause",
        "unpause",
        "skip",
        "merge",
        "plan",
        "profile",
        "report",
    ),
    *("choose", "join", "score", "compare", "table", "select", "prepare", "submit", "dataset"),
    *("models", "runs", "cache", "doctor"),
)
"""Of the commands in --help; others follow by name."""


class _Group(TyperGroup):
    """Prints a user's error as a red panel and its fix instead of a traceback, and an interrupt as a line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with interruptible(), speaking():
                return super().invoke(ctx)
        except (RetakeError, OSError) as error:
            told = error if isinstance(error, RetakeError) else refused_by_system(error)
            if told is None:
                raise
            _tell(told)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            errors.print("\nstopped")
            raise typer.Exit(STATUS) from None

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _tell(error: RetakeError) -> None:
    """The fix is no part of the frame, whose lines would cut a command that is to be pasted."""
    problem = Panel(Text(error.problem), title=type(error).__name__, title_align="left", border_style="red")
    errors.print(problem)
    errors.print(Text.assemble(("Fix: ", "bold"), error.fix), soft_wrap=True)


def refused_by_system(error: OSError) -> RetakeError | None:
    """What the system refused, as an error with a fix; None where it is not about a file of the user's.

    Whoever knows more of a file tells more; this is for every other one.
    """
    if error.errno is None or error.errno == errno.EPIPE:  # a library's own; a reader that has gone away
        return None
    files = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if name is not None]
    named = dict.fromkeys(str(meant(path)) for path in files)
    fix = "check the path and its disk, and repeat the command"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fix = "make room on that disk, and repeat the command"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        fix = "give a place that you may read and write, or change its rights"
    return SystemRefused(f"{' and '.join(named) or 'a file'}: {error.strerror}", fix=fix)


app = Commands(
    cls=_Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Generate video, let a local vision-language model judge it against physics, rewrite the prompt, "
    "generate again, keep the best take.",
    epilog="Start with [cyan]retake demo[/], then [cyan]retake scenes[/] and [cyan]retake run[/]. "
    "[cyan]retake doctor[/] says what this machine can run.",
)


@app.callback()
def retake(
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    speak(verbose, quiet)


def execute(build: Callable[[], Run | ClusterRun]) -> Mapping[str, Outcome]:
    """Run to the end with live progress. An interrupt leaves the run folder resumable."""
    from engine.build.libraries import without_unused

    with without_unused():
        return _execute(build)


def _execute(build: Callable[[], Run | ClusterRun]) -> Mapping[str, Outcome]:
    from engine.commands._progress import make_display

    with console.status("checking settings, dataset and memory, then loading models"):
        built = build()
    if built.warning is not None:
        body = Text.assemble(built.warning, "\n\nThe generator's own denoiser runs instead.")
        errors.print(Panel(body, title="Fallback", title_align="left", border_style="yellow"))
    for line in built.told:
        print_line(line)
    if built.changed:
        body = Text("\n".join(built.changed))
        errors.print(Panel(body, title="Changed to fit", title_align="left", border_style="yellow"))
    try:
        with built, make_display(console, built.num_pending, built.worked_s) as display:
            return built.execute(display)
    except KeyboardInterrupt:
        errors.print(
            f"\nstopped; go on with: {command_line('retake', 'resume', built.folder)}", soft_wrap=True
        )
        raise typer.Exit(STATUS) from None
    except (DeviceError, RunLost) as error:  # of a run that had begun
        _tell(error)
        raise typer.Exit(1) from error


def finish(folder: Path, outcomes: Mapping[str, Outcome], json_file: Path | None = None) -> None:
    """Report and summary, and the outcomes as JSON; status 1 when a scenario failed."""
    from engine.commands._progress import describe_outcome, odd_takes
    from engine.report.write import write_report
    from engine.runs.choices import users_choices
    from engine.runs.store import RunStore

    for line in odd_takes(folder, outcomes.values()):
        print_line(line, "yellow")
    for line in users_choices(outcomes.values()):
        print_line(line)
    failed = [outcome for outcome in outcomes.values() if outcome.failure is not None]
    for outcome in failed:
        errors.print(describe_outcome(outcome), style="red", markup=False, highlight=False, soft_wrap=True)
    takes = sum(len(outcome.attempts) for outcome in outcomes.values())
    console.print(
        f"{len(outcomes) - len(failed)} of {counted(len(outcomes), 'scenario')} done, "
        f"{counted(takes, 'take')}, {len(failed)} failed",
        highlight=False,
    )
    report = write_report(folder)
    print_line(f"report: {report}")
    if len(failed) < len(outcomes):
        print_line(f"chosen takes, alone as they were made: {folder / CHOSEN}")
        print_line(f"to post, the clips in front: {command_line('retake', 'join', folder, '--with-prefix')}")
    scenarios = []
    if json_file is not None:
        with RunStore.open(folder, read_only=True) as store:
            scenarios = [
                _outcome_document(one, store.scouts.of(one.scenario_id)) for one in outcomes.values()
            ]
    write_json({"run": folder, "report": report, "log": folder / LOG, "scenarios": scenarios}, json_file)
    if failed:
        raise typer.Exit(1)


def _outcome_document(outcome: Outcome, scouts: Sequence[Scout]) -> dict[str, Any]:
    """Videos are relative to the run folder; a failed scenario has no choice, an unjudged take no verdict."""
    return {
        "id": outcome.scenario_id,
        "chosen": outcome.chosen,
        "stopped": outcome.stopped,
        "failure": outcome.failure,
        "takes": [
            {
                "index": take.index,
                "round": take.round,
                "sample": take.sample,
                "seed": take.prompt.seed,
                "prompt": take.prompt.text,
                "video": take.video_path,
                "verdict": None if take.critique is None else str(take.critique.verdict),
                "score": None if take.critique is None else take.critique.score,
                "selector_scores": take.selector_scores,
            }
            for take in outcome.attempts
        ],
        "scouts": [
            {
                "candidate": scout.candidate,
                "round": scout.round,
                "stage": scout.stage,
                "steps": scout.form.steps,
                "seed": scout.prompt.seed,
                "prompt": scout.prompt.text,
                "video": scout.video_path,
                "scores": scout.scores,
                "place": scout.place,
                "kept": scout.kept,
            }
            for scout in scouts
        ],
    }
