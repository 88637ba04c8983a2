"""Velocity predictions and their classifier-free combination; the branch is an argument, never counted.

Knows neither schedulers nor the prefix: latents and per-token timesteps come ready for the transformer.
B batch · S tokens · L text tokens · D text width · Z latent channels · F, h, w latent frames and pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.protocols import Denoiser

COND: Final = "cond"
UNCOND: Final = "uncond"
BOTH: Final = "both"
"""The batched branch: `text` holds the two rows (uncond, cond), and so does the velocity that comes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedText:
    """Text embeddings of one job, [1, L, D] each; `uncond` is None when guidance is off."""

    cond: Tensor
    uncond: Tensor | None


class EagerDenoiser:
    """The untouched library transformer behind the Denoiser protocol: the oracle of every faster one."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        self._transformer = transformer
        self._dtype: torch.dtype = transformer.patch_embedding.weight.dtype

    def __call__(self, latents: Tensor, timestep: Tensor, text: Tensor, *, branch: str) -> Tensor:
        """Velocity, float32 [B, Z, F, h, w], of latents [1, Z, F, h, w] at per-token timesteps [1, S].

        B is 1 for branches "cond" and "uncond" and 2 for "both"; text is [B, L, D].
        """
        batch = 2 if branch == BOTH else 1
        assert branch in (COND, UNCOND, BOTH) and len(text) == batch, f"{branch}: text {tuple(text.shape)}"
        velocity = self._transformer(
            hidden_states=latents.to(self._dtype).expand(batch, -1, -1, -1, -1),
            timestep=timestep.expand(batch, -1),
            encoder_hidden_states=text.to(self._dtype),
            return_dict=False,
        )[0]
        assert isinstance(velocity, Tensor)
        return velocity.float()


def guided_velocity(
    denoiser: Denoiser,
    latents: Tensor,
    timestep: Tensor,
    text: GuidedText,
    scale: float,
    *,
    batched: bool = True,
) -> Tensor:
    """u + scale (c - u), float32 [1, Z, F, h, w]; c alone when there is no negative text.

    One batch-2 forward if `batched`, else two forwards: the same numbers, half the activation memory.
    Classifier-free guidance: Ho and Salimans 2022, arXiv 2207.12598.
    """
    if text.uncond is None:
        return _tensor(denoiser(latents, timestep, text.cond, branch=COND))
    if batched:
        pair = torch.cat([text.uncond, text.cond])
        uncond, cond = _tensor(denoiser(latents, timestep, pair, branch=BOTH)).chunk(2)
    else:
        uncond = _tensor(denoiser(latents, timestep, text.uncond, branch=UNCOND))
        cond = _tensor(denoiser(latents, timestep, text.cond, branch=COND))
    return uncond + scale * (cond - uncond)


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value
