"""Two transformers that share a take: one for its noisy steps, one for the others (Wan2.2-A14B).

Knows no family. Each expert has its own guidance, text and history: nothing is extrapolated over the
boundary. Where a device holds one of them at a time, the weights of the other wait on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from engine.denoise.guidance import Guide
from engine.denoise.sampler import PrefixTimestep
from engine.denoise.states import Observable
from engine.machine.offload import TakingTurns
from engine.protocols import Denoiser

EXPERTS = ("high", "low")
"""Of the noise levels at which they work, in the order of a take."""


class ExpertGuide:
    """Guidance of one job: the first expert's at timesteps from `boundary` on, then the second's."""

    def __init__(self, boundary: float, guides: Sequence[Callable[[], Guide]]) -> None:
        """Each of `guides` is made when it is first needed, and dropped before the other is."""
        assert len(guides) == len(EXPERTS), f"{len(guides)} guides"
        self._boundary, self._make = boundary, tuple(guides)
        self._index: int | None = None
        self._guide: Guide | None = None

    def velocity(self, latents: Tensor, timestep: PrefixTimestep, step: int) -> Tensor:
        """As `Guidance.velocity`."""
        index = 0 if timestep.value >= self._boundary else 1
        if self._guide is None or index != self._index:
            self._guide = None  # its text is as large as that of the next
            self._guide, self._index = self._make[index](), index
        return self._guide.velocity(latents, timestep, step)


class VisitingDenoiser:
    """A denoiser whose weights must be brought in before it is asked; others may have been in its place."""

    def __init__(self, inner: Denoiser, weights: TakingTurns, index: int) -> None:
        self._inner, self._weights, self._index = inner, weights, index

    def prepare(self, text: Any) -> Any:
        self._weights.use(self._index)
        return self._inner.prepare(text)

    def __call__(self, latents: Any, timestep: Any, text: Any, *, branch: str) -> Any:
        self._weights.use(self._index)
        return self._inner(latents, timestep, text, branch=branch)

    def observed(
        self, latents: Any, timestep: Any, text: Any, *, branch: str, layers: Sequence[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `engine.denoise.states.Observable`."""
        assert isinstance(self._inner, Observable), "every module of ours is"
        self._weights.use(self._index)
        return self._inner.observed(latents, timestep, text, branch=branch, layers=layers)
