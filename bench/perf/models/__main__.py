"""Measures video models beside a 4-bit critic: under budgets, beside the library's pipeline, with a LoRA.

A process for each model. What was measured is in --out already and is not repeated: the same command goes on
where the time ended. Models (VACE-14B: 35 GB, the critic: 16 GB) are made where they are measured unless they
are there; a --models in memory, such as /dev/shm/models, is read faster than one on a disk.

    python -m bench.perf.models --models /tmp/models --out bench/results/models_h200.json
    python -m bench.perf.models --models /tmp/models --out x.json --only vace-14b/budget wan2.2-5b/lora
    python -m bench.perf.models --models /tmp/tiny --size tiny --out x.json    # on a CPU: that it runs

On two GPUs of one machine: a process on each, for other models or stages, with the same --models and --out.

    CUDA_VISIBLE_DEVICES=0 python -m bench.perf.models --models M --out x.json --only vace-14b &
    CUDA_VISIBLE_DEVICES=1 python -m bench.perf.models --models M --out x.json --only wan2.2-5b anyflow-1.3b
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.files import write_json
from bench.perf import resumed
from bench.perf.document import read_rows, with_row
from bench.perf.locks import locked
from bench.perf.memory.document import FAILED
from bench.perf.models import STARTED_S
from bench.perf.models.document import KIND, joined
from bench.perf.models.rows import Row, chosen
from bench.perf.models.sizes import FULL, SIZES

MODULE = "bench.perf.models"
PROGRAM = f"python -m {MODULE}"


def main(arguments: Sequence[str] | None = None, *, started_s: float = STARTED_S) -> int:
    """Exit status: 0 all that was asked is measured; 1 something is left, failed, or a check does not hold; 2
    the user's error."""
    options = _parser().parse_args(arguments)
    work = _measure if options.in_process else _all
    return resumed.exit_status(partial(work, options, started_s + options.budget))


def _measure(options: argparse.Namespace, ends_s: float) -> int:
    """Rows of one process, in this one; each is in the file, with its manifest, as soon as it is measured."""
    from bench.perf.models.measure import measure

    for row in measure(options, chosen(options.only), _rows(options), ends_s - resumed.MARGIN_S):
        with locked(options.out.absolute().parent):  # that of another GPU may have come meanwhile
            rows = with_row(_rows(options), row)
            write_json(options.out, joined(rows, _settings(options), _command(options)))
        print(f"{row['name']}, after {row['row_s']:.0f} s: {told(row)}", flush=True)
    return 0


def _all(options: argparse.Namespace, ends_s: float) -> int:
    wanted = chosen(options.only)
    parts = _parts(options, _left(options, wanted), lambda row: row.model)
    broken = {name for part in resumed.measure_parts(MODULE, parts, ends_s) for name in part.left}
    there = {row["name"] for row in _rows(options)}
    untried = [row for row in wanted if row.name in broken - there]  # each stage by itself
    resumed.measure_parts(MODULE, _parts(options, untried, lambda row: row.part), ends_s)
    document = joined(_rows(options), _settings(options), _command(options))
    return resumed.finished(document, [row.name for row in _left(options, wanted)])


def _parts(
    options: argparse.Namespace, left: Sequence[Row], key: Callable[[Row], str]
) -> Iterator[resumed.Part]:
    for name, group in itertools.groupby(left, key):
        rows = list(group)
        names = tuple(row.name for row in rows)
        yield resumed.Part(
            name=name,
            left=names,
            least_s=SIZES[options.size].model(rows[0].model).least_s,
            words=(*_words(options), "--in-process", "--only", *names),
        )


def _left(options: argparse.Namespace, wanted: Sequence[Row]) -> list[Row]:
    """What is not measured yet; what failed is measured again."""
    done = {row["name"] for row in _rows(options) if row["state"] != FAILED}
    return [row for row in wanted if row.name not in done]


def _rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    return read_rows(options.out, KIND, _settings(options))


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
    parser = resumed.parser_of(PROGRAM, __doc__, budget_s=560.0, models=Path("models"))
    parser.add_argument("--size", choices=SIZES, default=FULL.name)
    parser.add_argument("--preset", choices=("exact", "fast", "fastest"), default="fast")
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
