"""Takes of AnyFlow-FAR: the prefix is remembered, then chunk after chunk is denoised in few steps behind it.

Knows no forward. Invariant: a chunk is remembered clean, at timestep 0, before the next one begins.
Z latent channels . F latent frames, K of them prefix
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.denoise.finite import FiniteWatch
from engine.denoise.sampler import FlowSampler, Schedule
from engine.generators.wan.far.library import Interval


class ChunkModel(Protocol):
    """A transformer that predicts one chunk behind a context of the ones before it. `Any` is its own."""

    def prepare(self, text: Any) -> Any:
        """Text embeddings [1, L, D] -> what the others take as `text`."""
        ...

    def remember(self, latents: Tensor, chunks: Sequence[int], count: int, text: Any, context: Any) -> Any:
        """The context of the first `count` of `chunks`, whose clean latents are float32 [1, Z, F, h, w]. The
        `context` of fewer, or None, may be changed, and is not used again."""
        ...

    def velocity(self, latents: Tensor, times: Interval, text: Any, context: Any) -> Tensor:
        """float32 [1, Z, f, h, w] of the next chunk, of the same shape."""
        ...


class ChunkRollout:
    """`engine.denoise.rollout.Rollout`."""

    def __init__(
        self,
        model: ChunkModel,
        text: Tensor,
        noise: Tensor,
        prefix: Tensor,
        watch: FiniteWatch,
        *,
        schedule: Schedule,
        chunks: Sequence[int],
    ) -> None:
        """noise float32 [1, Z, F, h, w]; clean prefix [1, Z, K, h, w], whose K is a border of `chunks`."""
        self._model, self._watch, self._schedule = model, watch, schedule
        self._text = model.prepare(text)
        self._noise, self._chunks = noise, tuple(chunks)
        self._done = [prefix.to(noise.dtype)]
        ends = list(accumulate(chunks))
        self._first = ends.index(prefix.shape[2]) + 1
        self._spans = list(pairwise(ends))[self._first - 1 :]

    @property
    def latents(self) -> Tensor:
        return torch.cat(self._done, dim=2)

    def steps(self) -> Iterator[int]:
        left, context = len(self._spans) * self._schedule.num_steps, None
        ends = [*self._schedule.timesteps[1:], 0.0]
        for index, (start, end) in enumerate(self._spans, start=self._first):
            context = self._model.remember(self.latents, self._chunks, index, self._text, context)
            sampler = FlowSampler(self._schedule, self._noise[:, :, start:end], patch_px=1)
            for step, (value, after) in enumerate(zip(self._schedule.timesteps, ends, strict=True), start=1):
                times = Interval(start=value, end=after)
                velocity = self._model.velocity(sampler.latents, times, self._text, context)
                self._watch.note(f"chunk {index + 1} of {len(self._chunks)}, denoise step {step}", velocity)
                sampler.advance(velocity)
                if step == self._schedule.num_steps:
                    self._done.append(sampler.latents)
                left -= 1
                yield left
