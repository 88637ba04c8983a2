"""Hidden states of the noisy tokens, pooled while a take is made: what a probe of its quality reads.

Of a few blocks in the middle at the first predicted steps, of the branch with the prompt. That branch runs in
every step of every model, guided or not, and takes of one scene differ in its text; the other branch sees the
same words in all of them. Pooled values are results of the forward, beside the velocity, so that a captured
graph gives them too; nothing of them enters a pixel, nobody waits for the device, and a forward of which they
are not asked computes nothing. A tap belongs to one job. Knows no family.
B batch . S noisy tokens, in the order of time . C channels . M moments
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from engine.denoise.sampler import PrefixTimestep
from engine.errors import ConfigError
from engine.protocols import Denoiser
from engine.types import MOMENTS, States, StateSites

NUM_STEPS = 4
"""Predicted steps that are looked at, from the first one on: what moves where is settled in them."""
DEPTHS = (0.25, 0.5, 0.75)
"""Of the blocks, behind which is looked: the middle ones, where physical plausibility was found to be linear
in the states (arXiv 2606.05328), as selectors of trajectories use it (2603.14294)."""


@runtime_checkable
class Observable(Protocol):
    """A `Denoiser` that can give hidden states with its velocity."""

    def observed(
        self, latents: Any, timestep: PrefixTimestep, text: Any, *, branch: str, layers: Sequence[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The velocity, bit for bit that of a call; and what stands behind each of `layers`, of the noisy
        tokens of the branch with the prompt, `pooled`: float32 [M, C] each."""
        ...


def pooled(states: Tensor, pending: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """Moments [M, C] in float32 of `states` [B, S, C], whose last row is the branch with the prompt.

    The mean of the first half of the tokens, that of the second, and the standard deviation of all. `pending`
    [B, S, C] is a branch not yet added, times `gate` [1, R, C] whose last row is of noisy tokens; None is 1.
    One copy in float32 is made, which is less than the hidden layer of a block, the peak of a forward.
    """
    row = states[-1].float()  # [S, C]
    if pending is not None:
        row = pending[-1].to(torch.float32, copy=True)
        row = (row if gate is None else row.mul_(gate[0, -1])).add_(states[-1])
    half = row.shape[0] // 2
    deviation, _ = torch.std_mean(row, dim=0, correction=0)
    return torch.stack([row[:half].mean(dim=0), row[half:].mean(dim=0), deviation])


def sites_of(
    timesteps: Sequence[float], extrapolated: Collection[int], *, num_layers: int, width: int
) -> StateSites:
    """Where states are taken in a take of this schedule, by a transformer of so many blocks."""
    predicted = [step for step in range(len(timesteps)) if step not in extrapolated]
    steps = tuple(predicted[:NUM_STEPS])
    return StateSites(
        steps=steps,
        timesteps=tuple(float(timesteps[step]) for step in steps),
        layers=tuple(sorted({max(1, round(num_layers * depth)) - 1 for depth in DEPTHS})),
        width=width,
    )


def refuse_states(what: str, why: str) -> ConfigError:
    return ConfigError(
        f"{what} keeps no hidden states: {why}",
        fix="leave out --keep-states, and the selector states",
    )


class StateTap:
    """What one take leaves. Steps in their order; a take that ends early leaves those that it made."""

    def __init__(self, sites: StateSites) -> None:
        self._sites = sites
        self._kept: dict[int, Tensor] = {}  # by step, [L, M, C]; of one that is taken again the last
        self._host: Tensor | None = None

    def velocity(
        self, denoiser: Denoiser, latents: Tensor, timestep: PrefixTimestep, text: Any, branch: str, step: int
    ) -> Any:
        """Of `denoiser`, whose states are kept where this step is one of the sites."""
        if step not in self._sites.steps:
            return denoiser(latents, timestep, text, branch=branch)
        assert isinstance(denoiser, Observable), "refused where the generator was loaded"
        velocity, found = denoiser.observed(latents, timestep, text, branch=branch, layers=self._sites.layers)
        self._kept[step] = torch.stack(found)
        return velocity

    def to_host(self) -> None:
        """Enqueues the copy of all that was kept; it is there once a later fence of the job has passed."""
        if self._kept:
            stacked = torch.stack(list(self._kept.values()))
            self._host = stacked.to("cpu", non_blocking=True)  # torch pins the copy

    def states(self) -> States | None:
        """None of a take without a predicted step."""
        if self._host is None:
            return None
        steps = tuple(self._kept)
        at = dict(zip(self._sites.steps, self._sites.timesteps, strict=True))
        seen = StateSites(
            steps=steps,
            timesteps=tuple(at[step] for step in steps),
            layers=self._sites.layers,
            width=self._sites.width,
        )
        values = np.asarray(self._host.numpy(), np.float32)
        assert values.shape == (len(steps), len(seen.layers), len(MOMENTS), seen.width), values.shape
        return States(sites=seen, values=values)
