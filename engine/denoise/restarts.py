"""A take whose first steps are taken again, everywhere or where its scouts disagree: that is drawn anew.

Restart sampling (Xu et al. 2023, arXiv 2306.14878); in a part of the latents, as RePaint travels in time
(Lugmayr et al. 2022, arXiv 2201.09865), where scouts say which part. Knows no family, and no picture but
as a map of numbers. One rollout belongs to one job.
Z latent channels . F latent frames, the first K of them prefix . h, w latent pixels
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.denoise.beginnings import Part
from engine.denoise.rollout import FlowRollout, Rollout
from engine.errors import ConfigError
from engine.machine.device import to_device
from engine.types import Restarts
from engine.words import counted

BACK_TO = 1
"""The step behind which a restart begins. Before the first one there is noise alone: to go back there would
be another take, of which nothing is known."""


class Restarted:
    """The rollout of a take with restarts."""

    def __init__(
        self,
        take: Callable[[Part, Tensor], Rollout],
        noise: Tensor,
        where: Tensor,
        *,
        restarts: Restarts,
        part: Part,
        num_steps: int,
        seed: int,
    ) -> None:
        """take: makes the rollout of a part of a take of this noise, float32 [1, Z, F, h, w]. where: bool
        [1, 1, F, h, w], on its device. part: what is left of the take; `seed` is the take's."""
        self._take, self._noise, self._where = take, noise, where
        self._restarts, self._num_steps, self._seed = restarts, num_steps, seed
        self._first = replace(part, known=known_before(part, restarts), until=restarts.steps)
        self._latents: Tensor | None = None

    @property
    def latents(self) -> Tensor:
        assert self._latents is not None, "the steps are over"
        return self._latents

    def steps(self) -> Iterator[int]:
        part, noise = self._first, self._noise
        for number in range(self._restarts.times + 1):
            rollout = self._take(part, noise)
            behind = self._num_behind(number)
            for left in rollout.steps():
                yield left + behind
            if number < self._restarts.times:
                assert isinstance(rollout, FlowRollout), "refused where a take is made chunk after chunk"
                fresh = _fresh(self._seed, number, noise)
                noise, known = rollout.returned(BACK_TO, fresh, self._where)
                until = None if number + 1 == self._restarts.times else self._restarts.steps
                part = Part(known=known, until=until)
        self._latents = rollout.latents

    def _num_behind(self, number: int) -> int:
        """Steps behind part `number`."""
        left = self._restarts.times - number
        return 0 if left == 0 else (left - 1) * (self._restarts.steps - BACK_TO) + self._num_steps - BACK_TO


def known_before(part: Part, restarts: Restarts) -> tuple[Tensor, ...]:
    """Of the known steps those that are not taken again: the last one is, since it says where it points."""
    return part.known[: restarts.steps - 1]


def num_left(part: Part, restarts: Restarts, num_steps: int) -> int:
    """Steps that are taken in all."""
    again = restarts.times * (restarts.steps - BACK_TO)
    return num_steps - len(known_before(part, restarts)) + again


def region(restarts: Restarts, shape: tuple[int, ...], prefix_frames: int) -> NDArray[np.bool_]:
    """[1, 1, F, h, w] of latents of this shape: behind the K prefix frames, the share in which scouts differ
    most; nothing where they do not differ at all."""
    _, _, frames, height, width = shape
    differ = torch.from_numpy(np.ascontiguousarray(restarts.differ, np.float32))[None, None]
    pooled = F.interpolate(differ, size=(frames - prefix_frames, height, width), mode="area")[0, 0].numpy()
    count = max(1, round(restarts.share * pooled.size))
    least = np.partition(pooled.ravel(), pooled.size - count)[pooled.size - count]
    found = np.zeros((1, 1, frames, height, width), np.bool_)
    found[0, 0, prefix_frames:] = (pooled >= least) & (pooled > 0)
    return found


def refuse_restarts(steps: int, *, num_steps: int, goes_on: bool, early_stop: float) -> None:
    """ConfigError where takes of `num_steps` cannot take the first `steps` again."""
    if steps >= num_steps:
        raise ConfigError(
            f"loop.restart_steps is {steps}, and a take has {counted(num_steps, 'denoise step')}",
            fix="lower loop.restart_steps, or take more --steps",
        )
    if not goes_on:
        raise ConfigError(
            "loop.finish_restarts is set, and the first steps of this model are of the first frames alone",
            fix="set loop.finish_restarts = 0",
        )
    if early_stop:
        raise ConfigError(
            "loop.finish_restarts is set, and denoise.early_stop may end a take before these steps are over",
            fix="set loop.finish_restarts = 0, or denoise.early_stop = 0",
        )


def _fresh(seed: int, number: int, like: Tensor) -> Tensor:
    """Noise of one restart, alike on every device, and no other candidate's."""
    digest = hashlib.sha256(f"restart {number} of {seed}".encode()).digest()
    source = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return to_device(torch.randn(like.shape, generator=source, dtype=torch.float32), like.device)
