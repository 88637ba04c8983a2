"""What a clip of all its steps takes, by a take of few steps that has each kind of step.

Steps differ: attention is 8-bit at the middle noise levels alone, some presets leave a branch of guidance or
the whole forward out. Each kind counts as often as it comes in the whole schedule.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.perf.takes_alone import Timed
from engine.denoise.guidance import gate_step
from engine.denoise.layers import quantized_range
from engine.denoise.step_cache import steps_to_extrapolate
from engine.settings.presets import QUANTIZED_END

Kinds = Sequence[object]
"""Of each step of a schedule: equal ones take equally long."""
NO_KERNEL = ("off", "none")
"""How the note on 8-bit attention begins where there is none."""


def kinds_of(generator: Any, timesteps: Sequence[float]) -> Kinds:
    """Of the generator's steps over a schedule of these timesteps; without a policy of these weights."""
    settings, num_steps = generator.settings, len(timesteps)
    low, high = quantized_range(
        *(
            QUANTIZED_END if end is None else end
            for end in (settings.quantized_first, settings.quantized_last)
        )
    )
    has_kernel = not generator.notes.get("quantized_attention", "off").startswith(NO_KERNEL)
    gate = gate_step(num_steps, settings.cfg_gate)
    left_out = steps_to_extrapolate(timesteps, settings, None)
    return [
        (step in left_out, has_kernel and low <= timestep <= high, gate is not None and step >= gate)
        for step, timestep in enumerate(timesteps)
    ]


def whole_clip(timed: Timed, kinds: Kinds, whole: Kinds) -> dict[str, Any]:
    """`timed` as JSON values, `step_s`, which is the mean of the whole schedule, and `clip_s`.

    kinds: of the steps of `timed`; whole: of all. A kind that was not timed counts as the median of all.
    Where the take is a whole clip, whatever its steps are, nothing is computed.
    """
    steps_s = timed.steps_s
    found = {**timed.document(), "clip_steps": len(whole)}
    if len(kinds) == len(whole):
        return found | {"step_s": statistics.fmean(steps_s), "clip_s": timed.seconds}
    assert len(steps_s) == len(kinds), f"{len(steps_s)} steps of {len(kinds)} kinds"
    by_kind = {
        kind: statistics.median(s for s, own in zip(steps_s, kinds, strict=True) if own == kind)
        for kind in kinds
    }
    expected_s = [by_kind.get(kind, statistics.median(steps_s)) for kind in whole]
    missing_s = sum(expected_s) - sum(by_kind[kind] for kind in kinds)
    return found | {"step_s": statistics.fmean(expected_s), "clip_s": timed.seconds + missing_s}
