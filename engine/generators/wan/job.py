"""A take of a Wan generator: texts through its encoder, the rest as `engine.denoise.take` has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.denoise.beginnings import Part
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import GuidedText
from engine.denoise.rollout import Rollout
from engine.denoise.take import TakeJob, TakeRequest
from engine.generators.wan.text import embed

if TYPE_CHECKING:
    from engine.generators.wan.generator import WanGenerator


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(TakeRequest):
    """With the tokens of both texts of each take, int64 [1, n]; negative ones are kept by their words."""

    token_ids: tuple[Tensor, ...]
    negatives: tuple[tuple[str, Tensor], ...]


class WanJob(TakeJob):
    """Job[Video]."""

    def __init__(self, generator: WanGenerator, request: Request) -> None:
        parts = generator.parts
        self._generator, self._request = generator, request
        modules = {
            "transformer": parts.transformer,
            "text_encoder": parts.text_encoder,
            "vae": parts.vae,
        }
        if len(parts.transformers) > 1:
            modules["transformer_2"] = parts.transformers[1]
        super().__init__(
            request,
            vae=parts.vae,
            spec=generator.spec,
            device=parts.device,
            num_steps=generator.num_steps,
            chunk_latents=generator.chunk_latents(generator.spec),
            modules=modules,
            keep=generator.beginnings.put,
            sites=generator.sites,
        )

    def _rollouts(self, watch: FiniteWatch) -> Callable[[Part, int | None, Tensor], Rollout]:
        parts, encode = self._generator.parts, self._generator.parts.variant.conditioning.encode
        text = self._encode_text()
        prefix = self._encode_prefix(
            self._generator.prefixes,
            lambda pixels: encode(parts.vae, pixels, parts.spec, self._chunk_latents),
        )

        def make(part: Part, num_steps: int | None, noise: Tensor) -> Rollout:
            generator = self._generator if num_steps is None else self._generator.in_steps(num_steps)
            tap = self._tap if num_steps is None else None  # states are of the take, not of its scout
            return generator.rollout(text, noise, prefix, watch, part, tap)

        return make

    def _encode_text(self) -> GuidedText:
        generator, request = self._generator, self._request
        uncond = [self._negative(*one) for one in request.negatives] if generator.is_guided else []
        cond = [embed(generator.parts, ids) for ids in request.token_ids]
        return GuidedText(cond=torch.cat(cond), uncond=torch.cat(uncond) if uncond else None)

    def _negative(self, words: str, ids: Tensor) -> Tensor:
        found = self._generator.negatives.get(words)
        if found is None:
            found = embed(self._generator.parts, ids)
            self._generator.negatives.put(words, found)
        return found
