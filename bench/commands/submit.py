"""The command that checks and packs a submission to Physics-IQ Verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from engine.commands._app import app, console, print_line
from engine.errors import ConfigError, unknown_name
from engine.words import counted

if TYPE_CHECKING:
    from bench.submission.card import Known, Problem
    from bench.submission.runs import Run


@app.command(
    epilog="Example: [cyan]retake submit runs/first --card card.yaml --dataset scenes/test[/] writes the "
    "form; filled in, it is packed with --out myorg__mymodel__2026-10-07"
)
def submit(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders or folders of clips; one is enough, 4 are advised."),
    ],
    card: Annotated[Path, typer.Option(help="The card, YAML. Written as a form if it is not there.")],
    dataset: Annotated[Path, typer.Option(help="Physics-IQ Verified, with the descriptions.csv used.")],
    out: Annotated[
        Path | None, typer.Option(help="Package to write; its name is the run id, org__model__YYYY-MM-DD.")
    ] = None,
    descriptions: Annotated[
        str | None, typer.Option(metavar="op|bpp", help="For the form: the prompts that were used.")
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="A run's JSON of `retake score`; once a run. Default: its scores.json."),
    ] = None,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything and write nothing.")
    ] = False,
) -> None:
    """Check a submission to Physics-IQ Verified against all its rules, and pack it.

    Without a card one is written: clips, scores, GPU and times of the runs are filled in, the rest is marked
    for you to fill, terms and warranties always. With a card all problems are listed at once; if there are
    none, the package is written. Nothing is sent anywhere. Status 1 when there are problems.
    """
    from bench.submission.card import read_card
    from bench.submission.card_fields import PROMPTS
    from bench.submission.package import check_run_id, check_submission, left_out, write_package
    from bench.submission.runs import find_runs, is_verified, reported_scores

    if descriptions is not None and descriptions not in PROMPTS:
        raise unknown_name("kind of prompts", descriptions, PROMPTS)
    runs = find_runs(folders, scores or [])
    if not is_verified(dataset):
        print_line(
            f"{dataset} is not the tree of Physics-IQ Verified, so no score is taken from the runs", "yellow"
        )
    if not card.is_file():
        if validate_only:
            raise ConfigError(
                f"{card} does not exist", fix="call once without --validate-only: it is written"
            )
        _write_form(card, runs, dataset, descriptions)
        return
    if out is None and not validate_only:
        raise ConfigError("--out is not given", fix="name the package, or give --validate-only")
    with console.status("checking clips") as status:
        problems = check_submission(
            card,
            runs,
            dataset,
            progress=lambda done, total: status.update(f"checking clips: {done} of {total}"),
        )
    if out is not None:
        problem = check_run_id(out, read_card(card))
        problems += [] if problem is None else [problem]
    why_not = reported_scores(runs).why_not
    if why_not is not None:
        print_line(f"the reported scores were not compared with the scorer's: {why_not}", "yellow")
    if problems:
        _print_problems(problems)
        raise typer.Exit(1)
    print_line(f"all rules are kept: {counted(len(runs), 'run')}")
    if validate_only or out is None:
        return
    others = left_out(runs, dataset)
    if others:
        print_line(f"left out of the package: {', '.join(others)}", "yellow")
    with console.status("copying"):
        num_files, num_bytes = write_package(out, card, runs, dataset)
    print_line(
        f"package: {out}, {counted(num_files, 'file')}, {num_bytes / 1e6:.1f} MB; it is yours to hand in, "
        "whole"
    )


def _write_form(card: Path, runs: Sequence[Run], dataset: Path, descriptions: str | None) -> None:
    from bench.submission.card import card_text, unfilled
    from bench.submission.runs import is_verified, known_fields, reported_scores

    known = known_fields(runs, dataset, descriptions)
    if not is_verified(dataset):
        known = {key: value for key, value in known.items() if not key.startswith("reported_scores.")}
    card.parent.mkdir(parents=True, exist_ok=True)
    with card.open("x", encoding="utf-8") as file:
        file.write(card_text(known))
    if known:
        console.print(_known_table(card, known))
    missing = reported_scores(runs).why_not
    if missing is not None:
        print_line(f"no scores filled in: {missing}", "yellow")
    print_line(f"to fill in by you: {', '.join(unfilled(known))}")
    print_line(f"wrote {card}; fill it in and repeat the call")


def _known_table(card: Path, known: Mapping[str, Known]) -> Table:
    table = Table("field", "value", "source", title=f"filled in {card}")
    for key, fact in known.items():
        table.add_row(key, str(fact.value), fact.source)
    return table


def _print_problems(problems: Sequence[Problem]) -> None:
    """One line each, which a narrow terminal wraps and a pipe keeps whole."""
    for problem in problems:
        line = Text.assemble(
            (f"{problem.field}: ", "bold red"),
            problem.value,
            (" allowed: ", "bold"),
            problem.allowed,
            (" fix: ", "bold"),
            problem.fix,
        )
        console.print(line, highlight=False, soft_wrap=True)
    print_line(f"{counted(len(problems), 'problem')}; nothing was written", "red")
