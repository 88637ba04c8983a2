"""Every attention kernel at full size on this GPU: supported or why not, error, time, TFLOP/s.

The error at full size is of the first queries of each head against the reference in fp64, since a whole
reference of 32760 x 32760 scores is not to be had. Random normal inputs.

    python -m bench.perf.attention_table --problems 1x12x32760x128,1x12x8190x128 --out FILE
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.perf import ceilings
from bench.perf.document import this_machine
from engine.runs.manifest import write_manifest
from engine.settings.environment import cache_folder
from engine.words import command_line
from kernels import dispatch, reference, timing
from kernels.descriptors import AttentionProblem, Target

CHECKED_QUERIES = 256


def table(
    problem: AttentionProblem, rounds: int, cache: Path, only: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One row per implementation, or for `only` these, in the order of time.

    A second one where a fused forward hands over E4M3: without the passes that quantize.
    """
    verdicts = dispatch.survey(problem, timed=False, only=only)
    q, k, v, options = dispatch.example(problem, seed=1)
    exact = reference.attention(q[:, :, :CHECKED_QUERIES], k, v, **options)
    functions: dict[str, Callable[[], object]] = {}
    rows = []
    for verdict in verdicts:
        row: dict[str, Any] = {"problem": str(problem), "name": verdict.name, "accuracy": verdict.accuracy}
        row["reason"] = verdict.reason
        rows.append(row)
        if verdict.reason is not None:
            continue
        try:
            tiles = dispatch.tuned_tiles(verdict.name, problem, cache, dispatch.FOLDER)
            more = options if tiles is None else options | {"tiles": tiles}
            function = functools.partial(dispatch.load(verdict.name).run, q, k, v, **more)
            out = function()
            found = reference.compare(out[:, :, :CHECKED_QUERIES], exact)
        except dispatch.failures() as error:
            row["reason"] = f"fails at full size: {type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        row |= {"relative_error": found.relative, "cosine": found.cosine}
        row["tiles"] = None if tiles is None else str(tiles)
        functions[verdict.name] = function
        implementation = dispatch.load(verdict.name)
        if hasattr(implementation, "quantize"):
            rows.append(row | {"name": f"{verdict.name}, inputs E4M3"})
            functions[rows[-1]["name"]] = dispatch.timed_call(implementation, q, k, v, options)
    times = timing.alternate(functions, rounds) if functions else {}
    for row in rows:
        if row["name"] in times:
            row["ms"] = times[row["name"]]
            row["summary"] = asdict(timing.summary(row["ms"]))
            row["tflops"] = problem.flops / row["summary"]["median"] / 1e9
    return sorted(rows, key=lambda row: row.get("summary", {}).get("median", float("inf")))


def parse(text: str) -> tuple[int, int, int, int]:
    """BATCHxHEADSxTOKENSxSIZE."""
    batch, heads, tokens, size = (int(part) for part in text.split("x"))
    return batch, heads, tokens, size


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.attention_table", description=__doc__)
    parser.add_argument("--problems", default="1x12x32760x128,1x12x8190x128")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    target = Target.of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    rows = []
    for text in options.problems.split(","):
        batch, heads, tokens, size = parse(text)
        problem = AttentionProblem(
            batch=batch,
            heads=heads,
            q_len=tokens,
            kv_len=tokens,
            head_dim=size,
            dtype="bf16",
            mask="none",
            target=target,
        )
        rows += table(problem, options.rounds, cache_folder() / "kernels")
        for row in rows:
            if row["problem"].startswith(str(problem)[:20]) and "summary" in row:
                print(
                    f"{row['problem']} {row['name']:26s} {row['summary']['median']:8.3f} ms "
                    f"{row['tflops']:6.0f} TFLOP/s error {row['relative_error']:.4f} {row['tiles'] or ''}",
                    flush=True,
                )
    document = {
        "schema": 1,
        "kind": "attention",
        "command": command_line(
            *("python", "-m", "bench.perf.attention_table"),
            *("--problems", options.problems, "--rounds", options.rounds),
        ),
        "manifest": this_machine(),
        "ceilings": ceilings.measure(),
        "rows": rows,
    }
    if options.out is not None:
        write_manifest(options.out, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
