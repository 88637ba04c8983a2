"""Which steps of a take are extrapolated instead of predicted: a fixed share, chosen before the first step.

The rules of the field's step caches, each as a curve that a calibration measured once on whole trajectories
(engine/denoise/step_changes.py) and that is kept with the weights (precision_policy.json). A take has no
state for it, nothing is hooked, nobody waits for the device, and every take of a schedule skips the same
steps. Knows no family.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import ConfigError
from engine.quant import precision_policy
from engine.quant.precision_policy import AUTO, OFF, Curve
from engine.settings.presets import EVEN, DenoiseSettings


def steps_to_extrapolate(
    timesteps: Sequence[float], settings: DenoiseSettings, folder: Path | None
) -> frozenset[int]:
    """Of a schedule; `folder` is the generator's. ConfigError where its weights have no curve."""
    rule = settings.step_cache_by
    if rule == EVEN or settings.step_cache == 0:
        return even_steps(len(timesteps), settings.step_cache)
    return quiet_steps(timesteps, settings.step_cache, _curve(rule, settings.policy, folder))


def note_of(settings: DenoiseSettings, extrapolated: frozenset[int]) -> str:
    """The rule, and its steps as a user counts them, from 1."""
    return f"{settings.step_cache_by}: steps {', '.join(str(s + 1) for s in sorted(extrapolated)) or 'none'}"


def even_steps(num_steps: int, share: float) -> frozenset[int]:
    """About `share` of the steps, evenly between the first two and the last, which are always predicted.

    The first two set the motion and give the extrapolation its slope, the last the detail. Never two in a
    row, so at most half of the steps between.
    """
    inner, count = _room(num_steps, share)
    return frozenset(inner[(2 * index + 1) * len(inner) // (2 * count)] for index in range(count))


def quiet_steps(timesteps: Sequence[float], share: float, curve: Curve) -> frozenset[int]:
    """As many as `even_steps`, none beside another, in which the least changes by `curve` in all."""
    inner, count = _room(len(timesteps), share)
    totals = [_at(curve, timestep) for timestep in timesteps]
    # best[k]: (change, steps) of k steps among those seen; before_last: the same without the newest of them
    nothing: tuple[int, ...] = ()
    before_last = [(0.0, nothing), *[(math.inf, nothing)] * count]
    best = before_last
    for step in inner:
        change = totals[step] - totals[step - 1]
        taken = [(cost + change, (*steps, step)) for cost, steps in before_last[:-1]]
        before_last, best = best, [best[0], *map(min, best[1:], taken)]
    return frozenset(best[count][1])


def _room(num_steps: int, share: float) -> tuple[range, int]:
    """The steps that may be extrapolated, and how many are."""
    inner = range(2, num_steps - 1)
    return inner, min(round(share * num_steps), (len(inner) + 1) // 2)


def _at(curve: Curve, timestep: float) -> float:
    """All change from noise to `timestep`, between measured ones on a line, beyond them as at the end."""
    points = sorted(curve)
    if timestep <= points[0][0]:
        return points[0][1]
    for (low, below), (high, above) in itertools.pairwise(points):
        if timestep <= high:
            return below + (above - below) * (timestep - low) / (high - low)
    return points[-1][1]


def _curve(rule: str, policy: str, folder: Path | None) -> Curve:
    found, note = precision_policy.find(folder, AUTO if policy == OFF else policy)
    changes: Mapping[str, Curve] = {} if found is None else found.changes
    if rule not in changes:
        why = f"its policy has no curve of it ({', '.join(changes) or 'none at all'})" if found else note
        raise ConfigError(
            f"denoise.step_cache_by {rule!r} needs what was measured on these weights: {why}",
            fix=f"run python -m bench.quality.policy_calibration --generator DIR, or take {EVEN!r}",
        )
    return changes[rule]
