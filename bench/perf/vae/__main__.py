"""Decoding of latents to pixels, measured: the library, our fused decoder, layouts by part, FP8 by part.

Random weights: speed, memory and errors to the decode in fp32, not what FP8 costs a trained decoder's picture
(bench.quality.vae_calibration). For each size first single convolutions, bf16 beside every tile of the FP8
kernel, then whole decodes; all ways of a group alternate in one process, warm, correctness first. What is in
--out already is not measured again, so that a run that its budget stopped goes on.

    python -m bench.perf.vae --sizes 480p,720p --budget 540 --out vae_h200.json
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.console import user_error
from bench.files import write_json
from bench.perf import ceilings, resumed
from bench.perf.document import this_machine
from bench.perf.vae import convolutions, decoding
from bench.perf.vae.models import SIZES
from bench.perf.vae.ways import LIBRARY
from engine.errors import ConfigError
from kernels.conv import fp8
from kernels.files import read_json

COMMAND = "python -m bench.perf.vae"
SECONDS = {"480p": (50.0, 200.0), "720p": (70.0, 220.0), "draft": (0.0, 60.0), "tiny": (0.0, 0.0)}
"""About what the convolutions and the decodes of a size take on an H200; none begins without."""
NOTES = (
    "errors and PSNR are to the library's decode in fp32 of the first frames, PSNR with the range of the "
    "exact pixels as its peak; error of rounding: the library in bf16 with the same operands in E4M3",
    "decodes take the FP8 tiles that were fastest in the rows of single convolutions, where there are any",
    "TFLOP/s count the multiplications of the library's way, whatever a way does",
)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that are measured together, into the list `into` of the document."""

    name: str
    into: str
    seconds: float
    measure: Callable[[float], list[Row]]


def groups(sizes: Sequence[str], repeats: int, device: torch.device) -> Iterator[Group]:
    """Single convolutions come first: what they show says which tile a decode should have."""
    for size in sizes:
        of_convolutions, of_decodes = SECONDS[size]
        shapes = convolutions.SHAPES.get(size, ())
        for shape in shapes:
            yield Group(
                name=f"convolution {shape}",
                into="convolutions",
                seconds=of_convolutions / len(shapes),
                measure=lambda end_s, shape=shape: convolutions.measured(  # type: ignore[misc]
                    shape, 2 * repeats, device, end_s
                ),
            )
        yield Group(
            name=f"decode {size}",
            into="rows",
            seconds=of_decodes,
            measure=lambda end_s, size=size: decoding.measured(  # type: ignore[misc]
                size, repeats if size != "720p" else min(repeats, 3), device, end_s, every=size != "720p"
            ),
        )


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """How many times faster than the library the fastest way is that decodes all frames."""
    found: dict[str, float] = {}
    for row in rows:
        if row.get("speedup") and row["name"] != LIBRARY and row["accuracy"] != "a few frames":
            kind = "fp8" if row.get("num_fp8") else "bf16"
            key = f"{row['problem'].split()[1]}_{kind}_over_library"
            found[key] = max(found.get(key, 0.0), row["speedup"])
    return found


def _begun(path: Path | None, command: str) -> dict[str, Any]:
    if path is not None and path.is_file():
        document: dict[str, Any] = read_json(path)
        if document.get("kind") != "vae" or "whole" not in document:
            raise ConfigError(f"{path} is not an unfinished {COMMAND}", fix="name another --out")
        return document
    head = {"schema": 1, "kind": "vae", "command": command, "manifest": this_machine(), "notes": NOTES}
    return {**head, "ceilings": ceilings.measure(), "rows": [], "convolutions": [], "whole": []}


def _say(row: Mapping[str, Any]) -> None:
    if "accuracy" in row:
        print(decoding.line_of(dict(row)), flush=True)
    elif "summary" in row:
        median, rate = row["summary"]["median"], row["tflop_per_s"]
        print(f"{row['name']:60s} {median:9.3f} ms {rate:7.1f} TFLOP/s  error {row['error']:.4f}", flush=True)
    else:
        print(f"{row['name']:60s} {row['reason']}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all that was asked is measured; 1 something is left; 2 the user's error."""
    began_s = time.perf_counter()
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--sizes", default="480p", help=f"comma-separated, of {', '.join(SIZES)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="groups whose names begin so")
    parser.add_argument("--budget", type=float, default=540.0, metavar="SECONDS", help="of the process")
    parser.add_argument("--out", type=Path, help="JSON; what is in it is not run again")
    options = parser.parse_args(arguments)
    sizes = options.sizes.split(",")
    if unknown := [size for size in sizes if size not in SIZES]:
        parser.error(f"size {unknown[0]!r} is not one of {', '.join(SIZES)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        document = _begun(options.out, f"{COMMAND} --sizes {options.sizes} --repeats {options.repeats}")
    except ConfigError as error:
        return user_error(error)
    asked = resumed.asked_of(parser, groups(sizes, options.repeats, device), options.only)
    for group in asked:
        if group.name in document["whole"]:
            continue
        left_s = options.budget - (time.perf_counter() - began_s)
        if left_s < group.seconds:
            print(f"{group.name}: left out, {left_s:.0f} s are left of the budget", flush=True)
            continue
        print(f"{group.name} ({left_s:.0f} s left)", flush=True)
        tiles = convolutions.fastest_tiles(document["convolutions"])
        with torch.inference_mode(), fp8.preferring(tiles):
            rows = group.measure(began_s + options.budget)
        for row in rows:
            _say(row)
        problems = {row["problem"] for row in rows}
        kept = [row for row in document[group.into] if row["problem"] not in problems]
        document[group.into] = [*kept, *rows]
        if all(row["reason"] != decoding.SPENT for row in rows):
            document["whole"].append(group.name)
        document["summary"] = summary(document["rows"])
        if options.out is not None:
            write_json(options.out, document)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print("\n".join(f"{name} {value:.2f}" for name, value in document.get("summary", {}).items()))
    left = [group.name for group in asked if group.name not in document["whole"]]
    return 0 if resumed.is_all(left) else 1


if __name__ == "__main__":
    sys.exit(main())
