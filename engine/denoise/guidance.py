"""Velocity predictions and their classifier-free combination; the branch is an argument, never counted.

Knows neither schedulers nor the prefix: latents and timesteps come ready for the denoiser. What is remembered
between steps belongs to one job and dies with it.
B batch . S tokens . L text tokens . D text width . Z latent channels . F, h, w latent frames and pixels
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from engine.denoise.sampler import PrefixTimestep
from engine.denoise.states import StateTap
from engine.protocols import Denoiser

COND: Final = "cond"
UNCOND: Final = "uncond"
BOTH: Final = "both"
"""The batched branch: `text` holds the two rows (uncond, cond), and so does the velocity that comes back. Of
N takes at once the N rows of uncond come before those of cond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedText:
    """Text embeddings of one job, [1, L, D] each, or [N, L, D] of N takes at once; `uncond` is None when
    guidance is off."""

    cond: Tensor
    uncond: Tensor | None


class Guide(Protocol):
    """Whoever says the velocity of each step of one job."""

    def velocity(self, latents: Tensor, timestep: PrefixTimestep, step: int) -> Tensor:
        """float32 [1, Z, F, h, w] for latents [1, Z or more, F, h, w] at step number `step`, from 0."""
        ...


class Guidance:
    """u + scale (c - u) of one job, step by step (classifier-free guidance, arXiv 2207.12598).

    From step `gate_step` on only the conditional branch runs and the last difference c - u is used again
    (Linear AG of Castillo et al. 2023, arXiv 2312.12487, keeps it constant). At the steps of `cached` nothing
    runs: the velocity is extrapolated over the timestep from the last two predicted ones (order 1 of
    TaylorSeer, arXiv 2503.06923).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        text: GuidedText,
        scale: float,
        *,
        batched: bool = True,
        gate_step: int | None = None,
        cached: Collection[int] = (),
        tap: StateTap | None = None,
    ) -> None:
        """`batched`: one batch-2 forward instead of two, the same numbers for twice the activation memory.
        `tap` keeps hidden states of some steps."""
        assert text.uncond is not None or scale == 1.0, "guidance needs a negative text"
        self._denoiser = denoiser
        self._scale = scale
        self._tap = tap
        self._gate_step = gate_step
        self._cached = frozenset(cached)
        self._last: list[tuple[float, Tensor]] = []  # predicted velocities by timestep, the newest last
        self._difference: Tensor | None = None
        self._cond = denoiser.prepare(text.cond)
        self._uncond: Any = None
        self._both: Any = None
        if text.uncond is not None and batched:
            self._both = denoiser.prepare(torch.cat([text.uncond, text.cond]))
        elif text.uncond is not None:
            self._uncond = denoiser.prepare(text.uncond)

    def velocity(self, latents: Tensor, timestep: PrefixTimestep, step: int) -> Tensor:
        """float32 [1, Z, F, h, w] for latents [1, Z, F, h, w] at step number `step`, counted from 0."""
        if step in self._cached and self._last:
            return self._extrapolated(timestep.value)
        velocity = self._predicted(latents, timestep, step)
        if self._cached:
            self._last = [*self._last[-1:], (timestep.value, velocity)]
        return velocity

    def _predicted(self, latents: Tensor, timestep: PrefixTimestep, step: int) -> Tensor:
        if self._uncond is None and self._both is None:
            return self._ask(latents, timestep, self._cond, COND, step)
        gated = self._gate_step is not None and step >= self._gate_step
        if gated and self._difference is not None:
            cond = self._ask(latents, timestep, self._cond, COND, step)
            return cond + (self._scale - 1.0) * self._difference
        if self._both is not None:
            pair = self._ask(latents, timestep, self._both, BOTH, step)
            uncond, cond = pair.chunk(2)
        else:
            uncond = self._ask(latents, timestep, self._uncond, UNCOND, step)
            cond = self._ask(latents, timestep, self._cond, COND, step)
        if self._gate_step is not None:
            self._difference = cond - uncond
        return uncond + self._scale * (cond - uncond)

    def _ask(self, latents: Tensor, timestep: PrefixTimestep, text: Any, branch: str, step: int) -> Tensor:
        if self._tap is None or branch == UNCOND:
            return _tensor(self._denoiser(latents, timestep, text, branch=branch))
        return _tensor(self._tap.velocity(self._denoiser, latents, timestep, text, branch, step))

    def _extrapolated(self, timestep: float) -> Tensor:
        newest, velocity = self._last[-1]
        if len(self._last) == 1:
            return velocity
        older, before = self._last[0]
        return velocity + (velocity - before) * ((timestep - newest) / (newest - older))


def gate_step(num_steps: int, share: float) -> int | None:
    """The step from which only the conditional branch runs, after `share` of the steps; None: it never comes.

    At least one step runs both branches.
    """
    step = max(1, round(share * num_steps))
    return step if step < num_steps else None


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value
