"""What the parts of a loop cost, in seconds of the GPU: measured beside candidates, or by another bench.

Chooses nothing and makes no take.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from bench.quality.budget_arms import Costs
from bench.quality.candidate_pool import ScenePool
from engine.errors import ConfigError
from engine.runs.store import RunStore
from kernels.files import read_json

WHOLE_RUN: Final = "end_to_end"
OVERLAPPED, ALONE = "fast", "fast-generation-only"
"""Variants of a whole run: takes with the critic's replies beside them, and without any."""


def measured_costs(
    run: Path, pools: Sequence[ScenePool], chooser_s: Mapping[str, float], steps: int, *, shrink: int
) -> Costs:
    """Medians over all that was made here, in seconds; steps of small looks have one of their own."""
    with RunStore.open(run, read_only=True) as store:
        takes = [take for one in store.scenarios() for take in store.attempts(one.id)]
    critiques = [take.critique.seconds for take in takes if take.critique is not None]
    clips = [(key, clip) for pool in pools for key, clip in pool.clips.items()]

    def median(name: str, looks: bool | None = None) -> float:
        return statistics.median(
            clip.seconds[name] for key, clip in clips if looks is None or key.is_look == looks
        )

    return Costs(
        take_steps=steps,
        start_s=median("encode_s"),
        step_s=median("step_s") if shrink == 1 else median("step_s", looks=False),
        look_step_s=None if shrink == 1 else median("step_s", looks=True),
        decode_s=median("decode_s", looks=False),
        look_decode_s=median("decode_s", looks=True),
        plan_s=statistics.median(pool.plan_s for pool in pools),
        critique_s=statistics.median(critiques) if critiques else 0.0,
        chooser_s=dict(chooser_s),
    )


def read_costs(path: Path, steps: int) -> Costs:
    """For takes of `steps`, of a document of loop_budget or bench.perf.end_to_end; ConfigError of others."""
    names = [entry.name for entry in fields(Costs) if entry.name != "take_steps"]
    try:
        document = read_json(path)
        if document.get("kind") == WHOLE_RUN:
            return whole_run_costs(document, steps)
        found = document["costs"]
        small = {"look_step_s": found.get("look_step_s")}  # older documents have none
        needed = {name: found[name] for name in names if name not in small}
        return Costs(**needed, **small, take_steps=steps)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"{path} holds no costs: {error!r}",
            fix=f"make it with bench.quality.loop_budget, or give a whole run with {OVERLAPPED} and {ALONE}",
        ) from error


def whole_run_costs(document: Mapping[str, Any], steps: int) -> Costs:
    """Of takes without replies, step by step; a reply costs what it slows the takes beside it by.

    Choosers work on host cores beside the GPU and cost nothing here. KeyError where a variant is missing.
    """
    parts = {part["variant"]: part for part in reversed(document["parts"])}  # of several the first
    alone, overlapped = parts[ALONE], parts[OVERLAPPED]
    num_steps, loops = alone["settings"]["steps"], overlapped["settings"]["loops"]
    by_step = alone["idle"]["step_s"]
    denoise, decode = by_step[1 : 1 + num_steps], by_step[1 + num_steps :]
    slowed_s = overlapped["median_s"]["generate"] - alone["median_s"]["generate"]
    num_takes = loops + 1
    reply_s = max(slowed_s, 0.0) * num_takes / (num_takes + 1)  # a critique of each, and the plan
    return Costs(
        take_steps=steps,
        start_s=by_step[0],
        step_s=statistics.mean(denoise),
        decode_s=sum(decode),
        look_decode_s=sum(decode),
        plan_s=reply_s,
        critique_s=reply_s,
        chooser_s={},
    )


def gpus_of_costs(path: Path) -> Any:
    """On what the costs of this document were measured."""
    document = read_json(path)
    manifest = document.get("manifest", {}).get("machine", {}).get("gpus", [])
    return document.get("costs", {}).get("gpus", manifest)
