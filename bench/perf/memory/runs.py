"""Runs of the product under budgets of memory, in this process: models kept as long as they fit, peaks noted.

What tables of memory share. Knows no preset and no table.
"""

from __future__ import annotations

import dataclasses
import gc
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.perf.end_to_end.engine_run import Watch
from bench.perf.memory.at_peak import recorded
from engine.build.prepare import Prepared, load, replies_at_once
from engine.build.run import Run
from engine.build.used_memory import USED
from engine.machine.memory import enforce_budget
from engine.protocols import Critic, Generator
from engine.runs.log_file import RunLog
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.trace import CudaRecorder, HostRecorder
from engine.runs.trace_file import read_trace
from engine.settings.config import RunConfig

SPANS_TIMED = 2000
EVERYTHING = "1000GiB"
"""A budget that takes back the one before it."""


@dataclass(slots=True)
class Loaded:
    """The models of the last combination, and what tells whether they are the next one's too."""

    key: object = None
    models: tuple[Generator, Critic] | None = None
    num_bytes: dict[str, int] | None = None
    is_warm: bool = False


def loaded_models(prepared: Prepared, loaded: Loaded) -> tuple[Generator, Critic, dict[str, int]]:
    """Loaded anew where the budget changed them; those of before are gone then."""
    config = prepared.config
    places = (config.memory.text_encoder, config.memory.blocks)
    key = (config.denoise, config.critic, places, replies_at_once(config, prepared.device))
    if loaded.models is None or loaded.key != key:
        loaded.models = None
        empty()
        loaded.num_bytes = {}
        loaded.models = load(prepared, loaded.num_bytes)
        loaded.key = key
    empty()
    enforce_budget(prepared.device, config.memory.vram or EVERYTHING)
    assert loaded.num_bytes is not None, "measured as they were loaded"
    return *loaded.models, loaded.num_bytes


def empty() -> None:
    """What an earlier run left in the allocator would count for the next one, against its budget."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def measured_run(
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


def without_budget(config: RunConfig) -> str:
    """By which two runs are the same, but for the memory that they may take."""
    memory = dataclasses.replace(config.memory, vram="")
    return repr(dataclasses.replace(config, memory=memory, out=Path(), dataset=Path()))
