"""Keys and values of the last texts, kept: takes of a round share their prompt, all the negative one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor

from engine.denoise.recent import Recent
from engine.denoise.sampler import PrefixTimestep
from engine.denoise.states import Observable
from engine.protocols import Denoiser

KEPT: Final = 2
"""The negative prompt, and the prompt of the take under way."""


class KeptTexts:
    """A denoiser whose `prepare` runs once a text. Token ids come on the host, so looking is no wait."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.inner = denoiser
        self._texts: Recent[Any] = Recent(KEPT)

    def prepare(self, text: Tensor) -> Any:
        """text: token ids [L] on the host."""
        key = tuple(text.tolist())
        made = self._texts.get(key)
        if made is None:
            made = self.inner.prepare(text)
            self._texts.put(key, made)
        return made

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: Any, *, branch: str) -> Any:
        return self.inner(latents, timestep, text, branch=branch)

    def observed(
        self, latents: Tensor, timestep: PrefixTimestep, text: Any, *, branch: str, layers: Sequence[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `engine.denoise.states.Observable`."""
        assert isinstance(self.inner, Observable), "every denoiser of Cosmos3 is"
        return self.inner.observed(latents, timestep, text, branch=branch, layers=layers)
