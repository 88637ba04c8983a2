"""How the latents of one take come to be, step by step, between the encoder and the decoder.

Knows no file, no autoencoder and no picture. One rollout belongs to one job.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from engine.denoise.beginnings import ALL, Part
from engine.denoise.early_stop import EarlyStop
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import Guide
from engine.denoise.sampler import FlowSampler


class Rollout(Protocol):
    """The denoise steps of one take."""

    def steps(self) -> Iterator[int]:
        """Each enqueues one step and yields how many are left."""
        ...

    @property
    def latents(self) -> Tensor:
        """The result, normalised, float32 [1, Z, F, h, w]; once all steps are over."""
        ...


class FlowRollout:
    """All frames at once, over a schedule or a part of it."""

    def __init__(
        self,
        sampler: FlowSampler,
        guide: Guide,
        watch: FiniteWatch,
        *,
        num_steps: int,
        early_stop: float,
        part: Part = ALL,
    ) -> None:
        """`early_stop`: the change of the preview below which the take is done; 0: never."""
        self._sampler, self._guide, self._watch = sampler, guide, watch
        self._num_steps, self._until = num_steps, part.until
        self._sampler.go_on(part.known)
        self._stop = EarlyStop(early_stop) if early_stop else None
        self._settled: Tensor | None = None

    @property
    def latents(self) -> Tensor:
        return self._sampler.latents if self._settled is None else self._settled

    @property
    def velocities(self) -> tuple[Tensor, ...]:
        """Of all steps so far, float32 [1, Z, F, h, w] each: what the take can go on from."""
        return self._sampler.velocities

    def returned(self, to: int, fresh: Tensor, where: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Of a part that has ended at a step: as `FlowSampler.returned`, by what its last step pointed at."""
        assert self._settled is not None, "it went to the end"
        return self._sampler.returned(to, fresh, where, self._settled)

    def steps(self) -> Iterator[int]:
        last = self._num_steps if self._until is None else self._until
        for step in range(self._sampler.step, last):
            velocity = self._guide.velocity(self._sampler.model_input, self._sampler.timestep, step)
            self._watch.note(f"denoise step {step + 1} of {self._num_steps}", velocity)
            if self._stop is not None:
                preview = self._sampler.preview(velocity)
                if self._stop.settled(preview):
                    self._settled = preview
                    yield 0
                    return
            if self._until == step + 1:
                self._settled = self._sampler.preview(velocity)
            self._sampler.advance(velocity)
            yield last - step - 1
