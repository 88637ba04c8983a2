"""Measures plan, peak and seconds a take of every preset, with and without overlap, under budgets of memory.

A process for each preset, which loads the models anew where a budget changes them. What was measured is in
--out already and is not repeated: the same command goes on where the time ended.

    python -m bench.perf.end_to_end make --out /models --clips 2
    python -m bench.perf.memory --models /models --out bench/results/memory_h200.json

On a CPU with models of --size tiny it shows that everything works; nothing is measured there but seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.files import write_json
from bench.perf import resumed
from bench.perf.document import read_rows, with_row
from bench.perf.end_to_end.made import read_facts
from bench.perf.memory import STARTED_S
from bench.perf.memory.combinations import BUDGETS, PRESETS_MEASURED, combinations
from bench.perf.memory.document import KIND, joined

MODULE = "bench.perf.memory"
PROGRAM = f"python -m {MODULE}"
LEAST_S = 45.0


def main(arguments: Sequence[str] | None = None, *, started_s: float = STARTED_S) -> int:
    """Exit status: 0 all is measured; 1 something is left, or ran beyond its budget; 2 the user's error."""
    options = _parser().parse_args(arguments)
    work = _all if options.only is None else _measure
    return resumed.exit_status(partial(work, options, started_s + options.budget))


def _measure(options: argparse.Namespace, ends_s: float) -> int:
    """One preset, in this process; a row is in the file as soon as it is measured."""
    from bench.perf.memory.measure import measure

    rows = _rows(options)
    for row in measure(options, rows, ends_s - resumed.MARGIN_S):
        rows = with_row(rows, row)
        write_json(options.out, joined(rows, _settings(options), _command(options)))
    return 0


def _all(options: argparse.Namespace, ends_s: float) -> int:
    resumed.measure_parts(MODULE, (_part(options, preset) for preset in options.presets), ends_s)
    document = joined(_rows(options), _settings(options), _command(options))
    write_json(options.out, document)
    return resumed.finished(document, _left(options, options.presets))


def _part(options: argparse.Namespace, preset: str) -> resumed.Part:
    left = _left(options, [preset])
    return resumed.Part(name=preset, left=tuple(left), least_s=LEAST_S, words=_words(options, preset))


def _left(options: argparse.Namespace, presets: Sequence[str]) -> list[str]:
    measured = {row["name"] for row in _rows(options)}
    return [one.name for one in combinations(presets, options.budgets) if one.name not in measured]


def _rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    return read_rows(options.out, KIND, _settings(options))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {"size": read_facts(options.models)["size"], "steps": options.steps}


def _words(options: argparse.Namespace, preset: str) -> tuple[str, ...]:
    words = ["--models", str(options.models), "--out", str(options.out), "--only", preset]
    words += ["--steps", str(options.steps), *["--history"] * options.history]
    return (*words, *(["--budgets", *options.budgets] if options.budgets else []))


def _command(options: argparse.Namespace) -> str:
    """What was asked, without the places of files."""
    return f"{PROGRAM} --steps {options.steps} --budgets {' '.join(options.budgets)}"


def _parser() -> argparse.ArgumentParser:
    parser = resumed.parser_of(PROGRAM, __doc__, budget_s=500.0, models=None)
    parser.add_argument("--steps", type=int, default=4, help="of denoising; 4: every kind of step is in them")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS_MEASURED), choices=PRESETS_MEASURED)
    parser.add_argument(
        "--budgets", nargs="*", default=list(BUDGETS), metavar="SIZE", help=f"of memory; {' '.join(BUDGETS)}"
    )
    parser.add_argument(
        "--history", action="store_true", help="note whose memory there was at each peak; it costs some time"
    )
    parser.add_argument("--only", choices=PRESETS_MEASURED, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
