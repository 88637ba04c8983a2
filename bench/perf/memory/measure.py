"""The combinations of one preset, in this process: planned, loaded where the models differ, run, measured."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.perf.end_to_end.engine_run import BudgetSpent, Watch, replies_forgotten
from bench.perf.end_to_end.made import CLIPS, CRITIC, GENERATOR
from bench.perf.memory.at_peak import recorded
from bench.perf.memory.combinations import Combination, combinations
from bench.perf.memory.document import FAILED, REFUSED, RUN, same_run
from engine.build.prepare import Prepared, load, prepare, replies_at_once
from engine.build.run import Run
from engine.build.used_memory import USED
from engine.errors import DoesNotFit
from engine.machine.memory import enforce_budget
from engine.protocols import Critic, Generator
from engine.runs.log_file import RunLog
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.trace import CudaRecorder, HostRecorder
from engine.runs.trace_file import read_trace
from engine.settings.config import RunConfig, load_config

SPANS_TIMED = 2000
LEAST_S = 15.0
"""A combination takes longer than this."""
EVERYTHING = "1000GiB"
"""A budget that takes back the one before it."""


@dataclass(slots=True)
class Loaded:
    """The models of the last combination, and what tells whether they are the next one's too."""

    key: object = None
    models: tuple[Generator, Critic] | None = None
    num_bytes: dict[str, int] | None = None
    is_warm: bool = False


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
        "config": _without_budget(prepared.config),
    }
    if (same := same_run(made, row["config"], one.vram)) is not None:
        print(f"{one.name}: as {same['name']}, which kept to less", flush=True)
        return same | row | {"same_run_as": same["name"]}
    began_s = time.perf_counter()
    try:
        generator, critic, loaded_bytes = _models(prepared, loaded)
    except torch.OutOfMemoryError as error:  # a plan counts runs, not what loading takes for a moment
        loaded.models = None
        return row | {"state": FAILED, "why": str(error)}
    row["load_s"] = time.perf_counter() - began_s
    if one.preset != "exact" and not loaded.is_warm:  # compiled at its first run
        _run(prepared, generator, critic, loaded_bytes, deadline_s)
        _empty()
        loaded.is_warm = True
    row |= _run(prepared, generator, critic, loaded_bytes, deadline_s, history=options.history)
    print(f"{one.name}: {row['seconds_per_take']:.1f} s a take", flush=True)
    return row


def _models(prepared: Prepared, loaded: Loaded) -> tuple[Generator, Critic, dict[str, int]]:
    """Loaded anew where the budget changed them; those of before are gone then."""
    config = prepared.config
    places = (config.memory.text_encoder, config.memory.blocks)
    key = (config.denoise, config.critic, places, replies_at_once(config, prepared.device))
    if loaded.models is None or loaded.key != key:
        loaded.models = None
        _empty()
        loaded.num_bytes = {}
        loaded.models = load(prepared, loaded.num_bytes)
        loaded.key = key
    _empty()
    enforce_budget(prepared.device, config.memory.vram or EVERYTHING)
    assert loaded.num_bytes is not None, "measured as they were loaded"
    return *loaded.models, loaded.num_bytes


def _empty() -> None:
    """What an earlier run left in the allocator would count for the next one, against its budget."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def _run(
    prepared: Prepared,
    generator: Generator,
    critic: Critic,
    loaded_bytes: dict[str, int],
    deadline_s: float,
    *,
    history: bool = False,
) -> dict[str, Any]:
    out = prepared.config.out
    if out.is_dir():
        shutil.rmtree(out)
    store, log = RunStore.create(out, prepared.scenarios), RunLog()
    log.into(out)
    began_s = time.perf_counter()
    run = Run(store, log, prepared, (generator, critic), loaded_bytes)
    with run, recorded(history) as at_peak:
        outcomes = run.execute(Watch(run.num_pending, deadline_s, one_after_the_other=False))
    seconds = time.perf_counter() - began_s
    takes = sum(len(outcome.attempts) for outcome in outcomes.values())
    used: list[dict[str, Any]] = read_manifest(out / MANIFEST).get(USED, [])
    num_spans = sum(1 for _ in read_trace(out))
    found: dict[str, Any] = {
        "num_takes": takes,
        "failures": [outcome.failure for outcome in outcomes.values() if outcome.failure is not None],
        "seconds": seconds,
        "seconds_per_take": seconds / max(takes, 1),
        "num_spans": num_spans,
        "profile_overhead": num_spans * seconds_of_a_span() / seconds,
    }
    if at_peak:
        found["at_peak"] = [{"place": place, "bytes": size} for place, size in at_peak]
    for entry in used:
        found |= entry
    return found | {"measured_parts": found.pop("parts", [])}


def seconds_of_a_span() -> float:
    """What the host spends to note one step as a run does, on the device of this process."""
    recorder = CudaRecorder() if torch.cuda.is_available() else HostRecorder()
    began_s = time.perf_counter()
    for _ in range(SPANS_TIMED):
        with recorder.span("generate", "clip", 0, "generate", "denoise step"):
            pass
    seconds = (time.perf_counter() - began_s) / SPANS_TIMED
    recorder.spans()
    return seconds


def _without_budget(config: RunConfig) -> str:
    """By which two runs are the same, but for the memory that they may take."""
    memory = dataclasses.replace(config.memory, vram="")
    return repr(dataclasses.replace(config, memory=memory, out=Path(), dataset=Path()))


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
