"""Table 1 of the loop: attempt sets of finished runs with both scores, ensembles of them, comparisons.

Reads what `retake score RUN --all-attempts` left behind; takes are opened only to let selectors choose. Of
folders of clips it scores what was not scored.

    python -m bench.table.make RUN [RUN ...] [--ensembles "1,2,5;all"] [--select NAME] [--compare "4 vs 1"]
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench.analysis.bootstrap import RESAMPLES, Floats
from bench.analysis.scored_clips import dataset_of, only_chosen_are_scored, read_clips
from bench.analysis.scored_run import ScoredRun, read_run
from bench.console import page_console, user_error
from bench.table.compare import difference
from bench.table.ensembles import (
    Ensemble,
    check_frame_rates,
    loop_row,
    make_ensemble,
    oracle_row,
    parse_ensembles,
    selector_rows,
)
from bench.table.render import FORMATS, render, rich_table
from bench.table.rows import ORIGINAL, SCORES, VERIFIED, Board, Row, make_board, single_rows
from engine.build.probing import selector_settings
from engine.errors import ConfigError, RetakeError
from engine.machine.device import resolve_device
from engine.runs.folder import DATABASE
from engine.settings.environment import offline
from engine.types import SelectorSettings
from engine.words import command_line, counted
from kernels.files import printable

SWITCH = {"original": (ORIGINAL,), "verified": (VERIFIED,), "both": SCORES}


_LOOP_NOTES = (
    "Loop 0 is the benchmark's own text, loop 1 the plan's prompt. A scenario that stopped earlier keeps the "
    "take of its last round.",
    "Gain: score of the ensemble minus the mean score of its member rows. Share: that gain as part of the "
    "oracle's.",
    "oracle chooses by the benchmark score of its column: a bound, not a result. loop: what the loop kept.",
)


def make_table(
    folders: Sequence[Path],
    *,
    ensembles: str = "all",
    choosers: Sequence[str] = (),
    compare: str = "",
    scores: Sequence[str] = SCORES,
    device: str = "cpu",
    dataset: Path | None = None,
) -> dict[str, Any]:
    """The JSON document of the table, of which `bench.table.render` makes the other formats.

    Raises ScorerError with the command to run for a run that is not finished or not scored, ConfigError for
    rows or selectors that do not exist.
    """
    board = make_board(_read(folders, dataset))
    groups = single_rows(board)
    singles = [row for rows in groups for row in rows]
    looped = [rows for rows in groups if not rows[0].clips]
    named = parse_ensembles(ensembles, [row for rows in looped for row in rows])
    if choosers and not looped:
        raise ConfigError("--select chooses among takes of a run, and none is given", fix="leave it out")
    for ensemble in named:
        check_frame_rates(board, ensemble)
    entries = [_entry(board, row, scores) for row in singles]
    rows = [*singles]
    settings = _networks(board, device, choosers) if choosers else SelectorSettings()
    for ensemble, oracle, lines in _ensemble_rows(board, looped, named, choosers, settings):
        rows += lines
        entries += [_ensemble_entry(board, ensemble, oracle, line, scores) for line in lines]
    return {
        "scores": list(scores),
        "rows": entries,
        "comparisons": [
            _comparison(board, rows, pair.strip(), scores) for pair in compare.split(";") if pair.strip()
        ],
        "num_cases": len(board.scenario_ids),
        "num_scenes": len(board.scenes),
        "left_out": dict(board.left_out),
        "notes": _notes(board, groups, [*named], compare),
    }


def _read(folders: Sequence[Path], dataset: Path | None) -> list[ScoredRun]:
    """Runs with every take, where these are scored; else, and of folders of clips, the one clip of each."""
    dataset = dataset_of(folders, dataset)
    is_loop = [(path / DATABASE).is_file() and not only_chosen_are_scored(path) for path in folders]
    pairs = zip(folders, is_loop, strict=True)
    return [read_run(path) if loop else read_clips(path, dataset) for path, loop in pairs]


def _ensemble_rows(
    board: Board,
    groups: Sequence[Sequence[Row]],
    named: Sequence[Ensemble],
    choosers: Sequence[str],
    settings: SelectorSettings,
) -> list[tuple[Ensemble, Row, list[Row]]]:
    """The loop's own choice of each group, then of each named ensemble the selectors' and the oracle's.

    Each with its ensemble's oracle, which is a line of the named ones.
    """
    numbers = sum(len(rows) for rows in groups)
    found: list[tuple[Ensemble, Row, list[Row]]] = []
    for rows in groups:
        name = "all" if len(rows) == numbers else ",".join(row.name for row in rows)
        own = make_ensemble(name, rows)
        found.append((own, oracle_row(board, own), [loop_row(board, own)]))
    for ensemble, chosen in zip(named, selector_rows(board, named, choosers, settings), strict=True):
        oracle = oracle_row(board, ensemble)
        found.append((ensemble, oracle, [*chosen, oracle]))
    return found


def _networks(board: Board, device: str, choosers: Sequence[str]) -> SelectorSettings:
    """Those that the runs themselves look through."""
    names = [name for chooser in choosers for name in chooser.split("+")]
    first, *others = [
        (run.folder, selector_settings(run.folder, device, names)) for run in board.runs if not run.clips
    ]
    for folder, settings in others:
        if settings != first[1]:
            raise ConfigError(
                f"{first[0]} and {folder} name other networks or devices in [selectors]",
                fix="choose among runs with the same [selectors], or leave out --select",
            )
    return first[1]


def _entry(board: Board, row: Row, scores: Sequence[str]) -> dict[str, Any]:
    """One row of the document; several seeds have a sample standard deviation."""
    return {
        "run": row.name,
        "loop": row.loop,
        "sample": row.sample,
        "steps": row.steps,
        "partial": row.partial,
        "seeds": list(row.seeds),
        "folders": list(row.folders),
        "chooser": row.chooser,
        **{score: _spread(board.scores(row, score)) for score in scores},
    }


def _ensemble_entry(
    board: Board, ensemble: Ensemble, oracle: Row, row: Row, scores: Sequence[str]
) -> dict[str, Any]:
    """With `gain` over the mean of the members and its `share` of the oracle's gain, null where that is 0."""
    entry = {**_entry(board, row, scores), "members": [member.name for member in ensemble.members]}
    for score in scores:
        base = _mean_of_members(board, ensemble, score)
        if not math.isfinite(base):
            continue  # the score does not exist for this dataset
        gain, bound = (float(board.scores(line, score).mean()) - base for line in (row, oracle))
        share = gain / bound if bound > 0 else None
        entry[score] = {**entry[score], "mean_of_members": base, "gain": gain, "share": share}
    return entry


def _mean_of_members(board: Board, ensemble: Ensemble, score: str) -> float:
    """Over the members' submissions that the ensemble is made of."""
    values = [board.scores(member, score)[:, 0] for member in ensemble.members]
    return float(np.mean([of[at] for place in ensemble.places for of, at in zip(values, place, strict=True)]))


def _spread(values: Floats) -> dict[str, Any]:
    """Mean and sample standard deviation of scores [seeds, 1]; a score that does not exist is null."""
    column = values[:, 0]
    if not np.isfinite(column).all():
        return {"mean": None, "std": None, "values": None}
    std = float(np.std(column, ddof=1)) if len(column) > 1 else None
    return {"mean": float(column.mean()), "std": std, "values": column.tolist()}


def _comparison(board: Board, rows: Sequence[Row], pair: str, scores: Sequence[str]) -> dict[str, Any]:
    """The paired difference of two rows with its interval; each row is the mean over its seeds."""
    names = [name.strip() for name in re.split(r"\s+vs\.?\s+", pair)]
    if len(names) == 1 and re.fullmatch(r"\d+\s*,\s*\d+", pair):
        names = [name.strip() for name in pair.split(",")]
    if len(names) != 2:
        raise ConfigError(f"{pair!r} does not name two rows", fix='write --compare "4 vs 1"')
    first, second = (_find(rows, name) for name in names)
    return {
        "a": first.name,
        "b": second.name,
        **{score: difference(board, first, second, score) for score in scores},
    }


def _find(rows: Sequence[Row], name: str) -> Row:
    """By its name, where the word "ensemble", braces and spaces are of no account."""

    def plain(text: str) -> str:
        return re.sub(r"ensemble|[{}\s]", "", text)

    for row in rows:
        if plain(row.name) == plain(name):
            return row
    raise ConfigError(f"there is no row {name!r}", fix="name one of: " + "; ".join(row.name for row in rows))


def _notes(
    board: Board, groups: Sequence[Sequence[Row]], ensembles: Sequence[Ensemble], compare: str
) -> list[str]:
    """What a reader must know to read the figures right."""
    notes = [
        f"{counted(len(board.scenario_ids), 'case')} of {counted(len(board.scenes), 'scene')}; scores in "
        "percent."
    ]
    for rows in groups:
        span = f"Row {rows[0].name}" if len(rows) == 1 else f"Rows {rows[0].name} to {rows[-1].name}"
        seeds = ", ".join(map(str, rows[0].seeds))
        what = "the clips as they are" if rows[0].clips else f"seed {seeds}"
        notes.append(f"{span}: {', '.join(rows[0].folders)} ({what}).")
    notes += [
        f"Only the chosen clips of {run.folder} are scored; a row for each of its rounds: "
        f"{command_line('retake', 'score', run.folder, '--all-attempts')} (what is scored is kept)."
        for run in board.runs
        if run.clips and (run.folder / DATABASE).is_file()
    ]
    if any(not rows[0].clips for rows in groups):
        notes += _LOOP_NOTES
    if any(row.partial for rows in groups for row in rows):
        notes.append("* only prompts that the critic called incomplete were refined.")
    if any(len(row.seeds) > 1 for rows in groups for row in rows):
        notes.append("± is the sample standard deviation over seeds.")
    if compare:
        notes.append(f"Intervals: paired percentile bootstrap over scenes, 95 %, {RESAMPLES} resamples.")
    if any(row.steps is None and not row.clips for rows in groups for row in rows):
        notes.append("Steps - of a row: the model folder's default, which its run did not record.")
    users = sum(one.overruled is not None for run in board.runs for one in run.outcomes.values())
    if users:
        notes.append(f"Of {counted(users, 'scenario')} the user chose the take: loop is what the loop chose.")
    notes += [ensemble.note for ensemble in ensembles if ensemble.note is not None]
    if board.left_out:
        reasons = list(board.left_out.values())
        scenarios = counted(len(reasons), "scenario is", "scenarios are")
        notes.append(f"{scenarios} left out of every row: {'; '.join(reasons[:3])}.")
    return notes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.table.make", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="scored runs, folders of clips, score files")
    parser.add_argument("--dataset", type=Path, help="of folders of clips; default: that of the first run")
    parser.add_argument("--ensembles", default="all", help='row numbers, as in "1,2,5;all"')
    parser.add_argument("--select", default="", help="selectors; NAME+NAME is their rank sum")
    parser.add_argument("--compare", default="", help='two rows, as in "4 vs 1"; several separated by ";"')
    parser.add_argument("--score", choices=SWITCH, default="both")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--out", type=Path, help="write there instead of to the terminal")
    parser.add_argument("--device", default="auto", help="of the selectors: auto, cpu or cuda")
    options = parser.parse_args(arguments)
    console = page_console()
    offline()  # before a selector imports the model libraries
    try:
        document = make_table(
            options.runs,
            ensembles=options.ensembles,
            choosers=[name.strip() for name in options.select.split(",") if name.strip()],
            compare=options.compare,
            scores=SWITCH[options.score],
            device=resolve_device(options.device) if options.select else "cpu",
            dataset=options.dataset,
        )
    except RetakeError as error:
        return user_error(error)
    _show(document, options.format, options.out, console)
    return 0


def _show(document: Mapping[str, Any], form: str, out: Path | None, console: Console) -> None:
    if form == "text" and out is None:
        table, lines = rich_table(document)
        console.print(table)
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    text = json.dumps(document, indent=1) + "\n" if form == "json" else render(document, form)
    if out is None:
        print(printable(text), end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    console.print(f"wrote {out}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
