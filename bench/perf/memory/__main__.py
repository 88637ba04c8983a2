"""Measures plan, peak and seconds a take of every preset, with and without overlap, under budgets of memory.

A process for each preset, which loads the models anew where a budget changes them. What was measured is in
--out already and is not repeated: the same command goes on where the time ended.

    python -m bench.perf.end_to_end make --out /models --clips 2
    python -m bench.perf.memory --models /models --out bench/results/memory_h200.json

On a CPU with models of --size tiny it shows that everything works; nothing is measured there but seconds.
"""

from __future__ import annotations

import argparse
import subprocess  # nosec B404 # this interpreter, on this package
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.files import write_json
from bench.perf.end_to_end.made import read_facts
from bench.perf.memory import STARTED_S
from bench.perf.memory.combinations import BUDGETS, PRESETS_MEASURED, combinations
from bench.perf.memory.document import joined, read_rows, unfinished
from engine.errors import RetakeError
from engine.settings.environment import offline

PROGRAM = "python -m bench.perf.memory"
LEAST_S = 45.0
"""With less time than this no preset is begun: its models would hardly be loaded."""
MARGIN_S = 5.0
"""For writing what was measured."""


def main(arguments: Sequence[str] | None = None, *, started_s: float = STARTED_S) -> int:
    """Exit status: 0 all is measured; 1 something is left, or ran beyond its budget; 2 the user's error."""
    options = _parser().parse_args(arguments)
    offline()  # before the model libraries are imported
    try:
        if options.only is not None:
            return _measure(options, started_s)
        return _all(options, started_s)
    except RetakeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace, started_s: float) -> int:
    """One preset, in this process; a row is in the file as soon as it is measured."""
    from bench.perf.memory.measure import measure

    rows = read_rows(options.out)
    deadline_s = started_s + options.budget - MARGIN_S
    for row in measure(options, rows, deadline_s):
        rows.append(row)
        write_json(options.out, unfinished(rows))
    return 0


def _all(options: argparse.Namespace, started_s: float) -> int:
    settings = {"size": read_facts(options.models)["size"], "steps": options.steps}
    for preset in options.presets:
        wanted = combinations([preset], options.budgets)
        if all(one.name in {row["name"] for row in read_rows(options.out)} for one in wanted):
            print(f"{preset} is there", flush=True)
            continue
        left_s = options.budget - (time.perf_counter() - started_s)
        if left_s < LEAST_S:
            print(
                f"{preset}: {left_s:.0f} s are left, too few; the same command goes on from here", flush=True
            )
            break
        command = [sys.executable, "-m", "bench.perf.memory", *_words(options, preset, left_s)]
        status = subprocess.run(command, check=False).returncode  # nosec B603 # as above
        if status:
            print(f"{preset}: exit status {status}", flush=True)
    rows = read_rows(options.out)
    if not rows:
        return 1
    document = joined(rows, settings, _command(options))
    write_json(options.out, document)
    for name, value in document["summary"].items():
        print(f"{name:24s} {value}")
    for check in document["checks"]:
        print(f"{'holds' if check['holds'] else 'FAILS'}: {check['name']}: {check['found']}")
    measured = {row["name"] for row in rows}
    left = [one.name for one in combinations(options.presets, options.budgets) if one.name not in measured]
    if left:
        print(f"not measured yet: {', '.join(left)}", flush=True)
    return 0 if not left and document["all_checks_hold"] else 1


def _words(options: argparse.Namespace, preset: str, left_s: float) -> list[str]:
    words = ["--models", str(options.models), "--out", str(options.out), "--only", preset]
    words += ["--budget", f"{left_s:.0f}", "--steps", str(options.steps)]
    words += ["--history"] * options.history
    return [*words, *(["--budgets", *options.budgets] if options.budgets else [])]


def _command(options: argparse.Namespace) -> str:
    """What was asked, without the places of files."""
    return f"{PROGRAM} --steps {options.steps} --budgets {' '.join(options.budgets)}"


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=plain)
    parser.add_argument(
        "--models", type=Path, required=True, metavar="DIR", help="the folder that bench.perf.end_to_end made"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--budget", type=float, default=500.0, metavar="SECONDS", help="of all; 500")
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
