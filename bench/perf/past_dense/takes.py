"""The denoise steps of a whole take by the presets of today, and with what leaves dense attention behind,
beside diffusers at its best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from bench.perf.denoisers.base import module_tree
from bench.perf.denoisers.wan import WanSubject
from bench.perf.past_dense import forwards, library
from bench.perf.past_dense.case import Case, against
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import Guidance, GuidedText, gate_step
from engine.denoise.rollout import FlowRollout
from engine.denoise.sampler import PrefixSampler, Schedule, read_schedule
from engine.denoise.step_cache import even_steps
from engine.generators.wan.prefix_keys import for_take
from engine.protocols import Denoiser
from engine.settings.presets import KEPT_PREFIX, PRESETS, DenoiseSettings

NAME = "takes, denoise steps"
SECONDS = 500.0
ROUNDS = 3
"""The first call, which checks, has warmed a take up."""
STEPS, SMALL_STEPS = 16, 4
FLOW_SHIFT = 3.0
"""Of the folder of Wan2.1-T2V-1.3B."""
GUIDANCE = 5.0
PRESETS_OF_A_GPU = ("fast", "fastest")
BEFORE = " before"
"""Behind the name of a preset: with the prefix computed in every step."""


def cases(*, small: bool, cache: Path) -> Iterator[Case]:
    """Branches of guidance one by one. A take is compared with the first of its preset: of random weights,
    whose velocities hardly change from step to step, so that nothing follows for a trained model."""
    wan = forwards.subject(small=small)
    device = forwards.device()
    transformer = wan.build(device)
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=FLOW_SHIFT
    )
    schedule = read_schedule(scheduler, SMALL_STEPS if small else STEPS)
    sparse = ("triton_prefix_sparse",) if small else ("fa3_fp8_prefix_sparse",)
    each, kept = {"prefix_kept": 0.0}, {"prefix_kept": KEPT_PREFIX}
    changes: Mapping[str, dict[str, Any]] = {
        BEFORE: each,
        "": kept,
        ", sparse": kept | {"quantized_attention": sparse},
        f"{BEFORE}, sparse": each | {"quantized_attention": sparse},
    }
    expected: dict[str, list[Tensor]] = {preset: [] for preset in PRESETS_OF_A_GPU}
    for told, changed in changes.items():  # should the time end, parts are missing, not a preset
        for preset in PRESETS_OF_A_GPU:
            settings = replace(PRESETS[preset], **changed)
            attention = f", sparse by {sparse[0]}" if "quantized_attention" in changed else ""
            yield Case(
                name=f"{preset}{told}",
                of=f"all {schedule.num_steps} steps{attention}",
                make=partial(_ours, wan, module_tree(transformer), settings, schedule, cache),
                check=partial(_check, expected[preset]),
                allowed=0.0,
            )
    stock = partial(_take, wan, schedule, DenoiseSettings())
    yield from library.cases(wan, transformer, schedule.num_steps, stock)


def summary(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """By what share of the preset as it was before the fastest take with such a part is as long, and by what
    share of diffusers at its best the fastest of all of the preset."""
    found: dict[str, float] = {}
    rows = groups.get(NAME, {"rows": ()})["rows"]
    stock = _medians(rows, library.NAME)
    for preset, name, over_stock in zip(
        PRESETS_OF_A_GPU,
        ("take_over_fast_before", "fastest_take_over_fastest_before"),
        ("take_over_diffusers", "fastest_take_over_diffusers"),
        strict=True,
    ):
        before = preset + BEFORE
        takes = _medians(rows, preset) | _medians(rows, before)
        others = [ms for row, ms in takes.items() if row != before]
        if before in takes and others:
            found[name] = min(others) / takes[before]
        if takes and stock:
            found[over_stock] = min(takes.values()) / min(stock.values())
    return found


def _medians(rows: Sequence[Mapping[str, Any]], what: str) -> dict[str, float]:
    """Of the rows `what` and `what, ...` that were timed."""
    timed = [row for row in rows if "summary" in row and row["name"].partition(", ")[0] == what]
    return {row["name"]: row["summary"]["median"] for row in timed}


def _ours(
    wan: WanSubject, transformer: Any, settings: DenoiseSettings, schedule: Schedule, cache: Path
) -> Callable[[], Tensor]:
    denoiser = wan.assembled(transformer, settings, cache).denoiser
    return _take(
        wan, schedule, settings, lambda: for_take(denoiser, schedule.timesteps, settings.prefix_kept)
    )


def _take(
    wan: WanSubject, schedule: Schedule, settings: DenoiseSettings, denoiser: Callable[[], Denoiser]
) -> Callable[[], Tensor]:
    """All steps; `denoiser` makes that of one take."""
    noise, _, cond = wan.inputs(forwards.device())
    text = GuidedText(cond=cond, uncond=cond.flip(1))
    prefix = noise.flip(2)[:, :, : wan.prefix_frames]

    def take() -> Tensor:
        guide = Guidance(
            denoiser(),
            text,
            GUIDANCE,
            batched=False,
            gate_step=gate_step(schedule.num_steps, settings.cfg_gate),
            cached=even_steps(schedule.num_steps, settings.step_cache),
        )
        sampler = PrefixSampler(schedule, noise, prefix, patch_px=2)
        num_steps = schedule.num_steps
        rollout = FlowRollout(sampler, guide, FiniteWatch(), num_steps=num_steps, early_stop=0.0)
        for _ in rollout.steps():
            pass
        return rollout.latents[:, :, wan.prefix_frames :]

    return take


def _check(expected: list[Tensor], latents: Tensor) -> dict[str, float]:
    assert bool(torch.isfinite(latents).all()), "not a number in the take"
    if not expected:
        expected.append(latents.clone())
    found = against(lambda: expected[0], lambda made: made)(latents)
    return {"error_to_preset": found["relative_error"]}
