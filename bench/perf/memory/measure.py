"""The combinations of one preset, in this process: planned, loaded where the models differ, run, measured."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.perf.end_to_end.engine_run import BudgetSpent, replies_forgotten
from bench.perf.end_to_end.made import CLIPS, CRITIC, GENERATOR
from bench.perf.memory.combinations import Combination, combinations
from bench.perf.memory.document import FAILED, REFUSED, RUN, same_run
from bench.perf.memory.runs import (
    Loaded,
    empty,
    loaded_models,
    measured_run,
    seconds_of_a_span,
    without_budget,
)
from engine.build.prepare import prepare
from engine.errors import DoesNotFit
from engine.settings.config import RunConfig, load_config

LEAST_S = 15.0
"""A combination takes longer than this."""


def measure(
    options: argparse.Namespace, rows: Sequence[Mapping[str, Any]], deadline_s: float
) -> Iterator[dict[str, Any]]:
    """A row for each combination of `options.only` that is not in `rows`, as far as the time goes."""
    there, made = {row["name"] for row in rows}, [dict(row) for row in rows]
    span_s, loaded = seconds_of_a_span(), Loaded()
    with replies_forgotten():
        for one in combinations([options.only], options.budgets):
            if one.name in there:
                continue
            if time.perf_counter() + LEAST_S > deadline_s:
                return
            # a folder of its own: another GPU of this machine may be measured at the same time
            with tempfile.TemporaryDirectory(prefix="memory-", dir=_runs(options)) as folder:
                try:
                    row = _row(one, options, loaded, deadline_s, made, Path(folder) / "run")
                except BudgetSpent:
                    return
            row["seconds_of_a_span"] = span_s
            made.append(row)
            yield row


def _row(
    one: Combination,
    options: argparse.Namespace,
    loaded: Loaded,
    deadline_s: float,
    made: Sequence[dict[str, Any]],
    out: Path,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": one.name,
        "preset": one.preset,
        "overlap": one.overlap,
        "vram": one.vram,
    }
    try:
        prepared = prepare(_config(one, options, out))
    except DoesNotFit as error:
        print(f"{one.name}: refused", flush=True)
        return row | {"state": REFUSED, "why": error.fix}
    row |= {
        "state": RUN,
        "changed": list(prepared.changed),
        "planned_bytes": prepared.memory.peak_bytes,
        "budget_bytes": prepared.memory.budget_bytes,
        "parts": prepared.memory.document()["parts"],
        "config": without_budget(prepared.config),
    }
    if (same := same_run(made, row["config"], one.vram)) is not None:
        print(f"{one.name}: as {same['name']}, which kept to less", flush=True)
        return same | row | {"same_run_as": same["name"]}
    began_s = time.perf_counter()
    try:
        generator, critic, loaded_bytes = loaded_models(prepared, loaded)
    except torch.OutOfMemoryError as error:  # a plan counts runs, not what loading takes for a moment
        loaded.models = None
        return row | {"state": FAILED, "why": str(error)}
    row["load_s"] = time.perf_counter() - began_s
    if one.preset != "exact" and not loaded.is_warm:  # compiled at its first run
        measured_run(prepared, generator, critic, loaded_bytes, deadline_s)
        empty()
        loaded.is_warm = True
    row |= measured_run(prepared, generator, critic, loaded_bytes, deadline_s, history=options.history)
    print(f"{one.name}: {row['seconds_per_take']:.1f} s a take", flush=True)
    return row


def _runs(options: argparse.Namespace) -> Path:
    """Where the run folders go: beside the models, on their disk."""
    folder: Path = options.models.absolute() / "runs"
    folder.mkdir(exist_ok=True)
    return folder


def _config(one: Combination, options: argparse.Namespace, out: Path) -> RunConfig:
    models: Path = options.models.absolute()
    return load_config(
        None,
        {
            "dataset": str(models / CLIPS),
            "out": str(out),
            "limit": one.num_scenarios,
            "generator.name": str(models / GENERATOR),
            "generator.steps": options.steps,
            "critic.name": str(models / CRITIC),
            "critic.quantization": "nf4" if torch.cuda.is_available() else "none",
            "denoise.preset": one.preset,
            "schedule.overlap": one.overlap,
            "loop.loops": 0,
            "memory.vram": one.vram,
        },
    )
