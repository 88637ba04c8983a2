"""A take that begins where a whole scout of it ended, so that its motion is kept.

Knows no family. One rollout belongs to one job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from engine.denoise.beginnings import Part
from engine.denoise.rollout import Rollout


class AfterScout:
    """The rollout of a take that keeps the motion of a whole scout.

    As SDEdit does with a picture (Meng et al. 2021, arXiv 2108.01073), but with the noise of the take itself.
    Its first steps have the velocity that leads from the noise straight to what the scout shows, so that the
    latents behind them are that, as noisy as a take is there. The scout's own steps come first, unless what
    it shows is known.
    """

    def __init__(
        self,
        scout: Rollout | Tensor,
        noise: Tensor,
        take: Callable[[Part], Rollout],
        *,
        num_kept: int,
        num_left: int,
    ) -> None:
        """scout: its rollout, or its latents [1, Z, F, h, w]. take: makes the rollout of a part of a take."""
        self._scout, self._noise, self._take = scout, noise, take
        self._num_kept, self._num_left = num_kept, num_left
        self._latents: Tensor | None = None

    @property
    def latents(self) -> Tensor:
        assert self._latents is not None, "the steps are over"
        return self._latents

    def steps(self) -> Iterator[int]:
        if isinstance(self._scout, Tensor):
            shown = self._scout
        else:
            for left in self._scout.steps():
                yield left + self._num_left
            shown = self._scout.latents
        velocity = self._noise - shown
        rollout = self._take(Part(known=(velocity,) * self._num_kept))
        for left in rollout.steps():
            yield left
        self._latents = rollout.latents
