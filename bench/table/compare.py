"""Two sets of clips over one dataset: the paired difference of their scores, over all and by category.

Chooses nothing: each side is one clip of every scenario, as it would be handed in.

    python -m bench.table.compare A B [--dataset DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from bench.analysis.bootstrap import RESAMPLES, Floats, statistic_ci95
from bench.analysis.scored_clips import dataset_of, read_clips
from bench.console import page_console, user_error
from bench.files import write_json
from bench.table.render import TITLES, difference_text
from bench.table.rows import SCORES, Board, Row, make_board, single_rows
from engine.errors import RetakeError
from engine.words import counted
from kernels.files import STDOUT

ALL = "all"
MIN_SCENES = 2  # one scene says nothing of how much scenes differ


def compare_clips(first: Path, second: Path, dataset: Path | None = None) -> dict[str, Any]:
    """The JSON document. A side is a run (its clips in chosen/), a folder of clips, or a file of scores.

    Raises ScorerError for what cannot be scored, ConfigError where the two have no scenario in common or the
    dataset is not known.
    """
    paths = (first, second)
    dataset = dataset_of(paths, dataset)
    board = make_board([read_clips(path, dataset) for path in paths])
    (one,), (other,) = single_rows(board)
    groups = {ALL: board, **_categories(board, one)}
    return {
        "a": str(first),
        "b": str(second),
        "groups": {name: _group(part, one, other) for name, part in groups.items()},
        "num_scenes": len(board.scenes),
        "left_out": dict(board.left_out),
        "notes": _notes(board),
    }


def difference(board: Board, first: Row, second: Row, score: str) -> dict[str, Any]:
    """Mean of `first` minus `second`, each over its seeds, with the paired 95 % interval over scenes.

    "ci95" is None where there is no interval: a single scene, or a score that does not exist.
    """

    def of(weights: Floats) -> Floats:
        sides = [board.scores(row, score, weights).mean(axis=0) for row in (first, second)]
        return np.asarray(sides[0] - sides[1], np.float64)

    found = statistic_ci95(of, len(board.scenes))
    return found if len(board.scenes) >= MIN_SCENES else {**found, "ci95": None}


def _categories(board: Board, row: Row) -> dict[str, Board]:
    """The board of each category, where there are several."""
    names: dict[str, list[str]] = {}
    for key, take in row.picks[SCORES[0]][0].items():
        names.setdefault(board.record(take).category, []).append(key)
    if len(names) < 2:
        return {}
    return {name: _part(board, row, keys) for name, keys in sorted(names.items())}


def _part(board: Board, row: Row, keys: Sequence[str]) -> Board:
    scenes = {board.record(row.picks[SCORES[0]][0][key]).scene for key in keys}
    return replace(board, scenario_ids=tuple(keys), scenes=tuple(sorted(scenes)))


def _group(board: Board, first: Row, second: Row) -> dict[str, Any]:
    def side(row: Row, score: str) -> float | None:
        value = float(board.scores(row, score)[0, 0])
        return value if np.isfinite(value) else None

    return {
        "num_cases": len(board.scenario_ids),
        "num_scenes": len(board.scenes),
        **{
            score: {
                "a": side(first, score),
                "b": side(second, score),
                "difference": difference(board, first, second, score),
            }
            for score in SCORES
        },
    }


def _notes(board: Board) -> list[str]:
    notes = [
        f"Difference: A minus B over the same {counted(len(board.scenario_ids), 'case')} of "
        f"{counted(len(board.scenes), 'scene')}, "
        f"paired percentile bootstrap over scenes, 95 %, {RESAMPLES} resamples; no interval from one scene."
    ]
    if board.left_out:
        reasons = list(board.left_out.values())
        scenarios = counted(len(reasons), "scenario is", "scenarios are")
        notes.append(f"{scenarios} left out on both sides: {'; '.join(reasons[:3])}.")
    return notes


def rich_table(document: Mapping[str, Any]) -> Table:
    table = Table("cases of", "n")
    for score in SCORES:
        for name in ("A", "B", "A minus B (95 %)"):
            table.add_column(f"{TITLES[score]}\n{name}", justify="right")
    for name, group in document["groups"].items():
        cells = []
        for score in SCORES:
            found = group[score]
            cells += ["-" if found[side] is None else f"{found[side]:.2f}" for side in ("a", "b")]
            cells.append(difference_text(found["difference"]))
        table.add_row(name, str(group["num_cases"]), *cells)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.table.compare", description=__doc__)
    parser.add_argument("sides", type=Path, nargs=2, help="runs, folders of clips, or files of scores")
    parser.add_argument("--dataset", type=Path, help="default: that of the first run")
    parser.add_argument("--json", type=Path, help="write the figures there as well; - prints them")
    parser.add_argument("--quiet", action="store_true", help="no table")
    options = parser.parse_args(arguments)
    try:
        first, second = options.sides
        document = compare_clips(first, second, options.dataset)
        if options.json is not None:
            write_json(options.json, document)
    except RetakeError as error:
        return user_error(error)
    console = page_console(stderr=options.json == STDOUT)
    console.quiet = options.quiet
    for side in ("a", "b"):  # whole, where a title would wrap with its table
        console.print(f"{side.upper()}: {document[side]}", markup=False, highlight=False, soft_wrap=True)
    console.print(rich_table(document))
    for line in document["notes"]:
        console.print(line, soft_wrap=True)
    if options.json not in (None, STDOUT):
        console.print(f"wrote {options.json}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
