"""Measures video models beside a 4-bit critic: under budgets, beside the library's pipeline, with a LoRA.

A process for each model and stage. What was measured is in --out already and is not repeated: the same
command goes on where the time ended. Models (VACE-14B: 35 GB) are made where they are measured unless they
are there.

    python -m bench.perf.models --models /tmp/models --out bench/results/models_h200.json
    python -m bench.perf.models --models /tmp/models --out x.json --only vace-14b/budget wan2.2-5b/lora
    python -m bench.perf.models --models /tmp/tiny --size tiny --out x.json    # on a CPU: that it runs
"""

from __future__ import annotations

import argparse
import itertools
import subprocess  # nosec B404 # this interpreter, on this package
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.files import write_json
from bench.perf.memory.document import FAILED
from bench.perf.models import STARTED_S
from bench.perf.models.document import joined, read_rows
from bench.perf.models.rows import Row, chosen
from bench.perf.models.sizes import FULL, SIZES
from engine.errors import RetakeError
from engine.settings.environment import offline

PROGRAM = "python -m bench.perf.models"
MARGIN_S = 5.0
"""For writing what was measured."""


def main(arguments: Sequence[str] | None = None, *, started_s: float = STARTED_S) -> int:
    """Exit status: 0 all that was asked is measured; 1 something is left, failed, or a check does not hold; 2
    the user's error."""
    options = _parser().parse_args(arguments)
    offline()  # before the model libraries are imported
    try:
        wanted = chosen(options.only)
        if options.in_process:
            return _measure(options, wanted, started_s + options.budget - MARGIN_S)
        return _all(options, wanted, started_s)
    except RetakeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace, wanted: Sequence[Row], deadline_s: float) -> int:
    """Rows of one process, in this one; each is in the file, with its manifest, as soon as it is measured."""
    from bench.perf.models.measure import measure

    rows = read_rows(options.out, _settings(options))
    for row in measure(options, wanted, rows, deadline_s):
        rows = [other for other in rows if other["name"] != row["name"]] + [row]
        write_json(options.out, joined(rows, _settings(options), _command(options)))
        print(f"{row['name']}: {told(row)}", flush=True)
    return 0


def _all(options: argparse.Namespace, wanted: Sequence[Row], started_s: float) -> int:
    for (model, stage), group in itertools.groupby(_left(options, wanted), key=lambda row: row.process):
        left_s = options.budget - (time.perf_counter() - started_s)
        least_s = SIZES[options.size].model(model).least_s
        if left_s < least_s:
            print(f"{model}/{stage}: {left_s:.0f} s are left, {least_s:.0f} are needed", flush=True)
            continue  # another model may need less
        words = [*_words(options), "--budget", f"{left_s:.0f}", "--only", *(row.name for row in group)]
        command = [sys.executable, "-m", "bench.perf.models", *words, "--in-process"]
        status = subprocess.run(command, check=False).returncode  # nosec B603 # as above
        if status:
            print(f"{model}/{stage}: exit status {status}", flush=True)
    rows = read_rows(options.out, _settings(options))
    document = joined(rows, _settings(options), _command(options))
    for name, value in document["summary"].items():
        print(f"{name:36s} {value:.4g}")
    for check in document["checks"]:
        print(f"{'holds' if check['holds'] else 'FAILS'}: {check['name']}: {check['found']}")
    left = [row.name for row in _left(options, wanted)]
    if left:
        print(f"not measured yet: {', '.join(left)}; the same command goes on", flush=True)
    return 0 if not left and document["all_checks_hold"] else 1


def _left(options: argparse.Namespace, wanted: Sequence[Row]) -> list[Row]:
    """What is not measured yet; what failed is measured again."""
    rows = read_rows(options.out, _settings(options))
    done = {row["name"] for row in rows if row["state"] != FAILED}
    return [row for row in wanted if row.name not in done]


def told(row: Mapping[str, Any]) -> str:
    """A row in a line."""
    if "why" in row:
        return f"{row['state']}: {row['why']}"
    if "latent_error" in row:
        return f"latents {row['latent_error']:.4f} from the pipeline's"
    if "step_ratio" in row:
        return f"{row['step_ratio']:.3f} of a step without"
    if "ours" in row:
        return ", ".join(f"{way} {row[way]['step_s']:.3f} s a step" for way in ("ours", "library"))
    return f"{row['step_s']:.3f} s a step, {row['clip_s']:.1f} s a clip"


def _settings(options: argparse.Namespace) -> dict[str, str]:
    return {"size": options.size, "preset": options.preset}


def _words(options: argparse.Namespace) -> list[str]:
    places = ["--models", str(options.models), "--out", str(options.out)]
    return [*places, "--size", options.size, "--preset", options.preset]


def _command(options: argparse.Namespace) -> str:
    """What was asked, without the places of files."""
    return f"{PROGRAM} --size {options.size} --preset {options.preset}"


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=plain)
    parser.add_argument("--models", type=Path, default=Path("models"), metavar="DIR", help="made if need be")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--size", choices=SIZES, default=FULL.name)
    parser.add_argument("--preset", choices=("exact", "fast", "fastest"), default="fast")
    parser.add_argument("--budget", type=float, default=560.0, metavar="SECONDS", help="of the process")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="ROW",
        help="rows, models or stages alone, such as vace-14b, vace-14b/budget, vace-14b/budget/24GiB",
    )
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
