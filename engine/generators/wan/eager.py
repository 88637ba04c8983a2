"""The library's Wan transformer as a denoiser: what every faster one is compared with.

N takes, 1 unless scouts share a forward . B batch . L text tokens . D text width
Z latent channels . F, h, w latent frames and pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from torch import Tensor, nn

from engine.denoise.guidance import BOTH, COND, UNCOND
from engine.denoise.sampler import PrefixTimestep
from engine.denoise.states import pooled


class EagerDenoiser:
    """The untouched library transformer behind the Denoiser protocol: the oracle of every faster one."""

    def __init__(self, transformer: WanTransformer3DModel | WanVACETransformer3DModel) -> None:
        self._transformer = transformer
        self._control_channels = int(transformer.config.get("vace_in_channels") or 0)
        self._dtype: torch.dtype = transformer.patch_embedding.weight.dtype

    def prepare(self, text: Tensor) -> Tensor:
        return text.to(self._dtype)

    @staticmethod
    def _times(timestep: PrefixTimestep, batch: int, device: torch.device) -> Tensor:
        """[B, S], or where all tokens have the same [B], of which the library makes one row each."""
        if timestep.prefix_frames:
            return timestep.per_token(device).expand(batch, -1)
        return torch.full((batch,), timestep.value, device=device)

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: Tensor, *, branch: str) -> Tensor:
        """Velocity, float32 [B, Z, F, h, w], of latents [N, Z or more, F, h, w].

        B is N for branches "cond" and "uncond" and 2 N for "both"; text is [B, L, D].
        """
        branches = 2 if branch == BOTH else 1
        batch = branches * len(latents)
        assert branch in (COND, UNCOND, BOTH) and len(text) == batch, f"{branch}: text {tuple(text.shape)}"
        given = latents.to(self._dtype).repeat(branches, 1, 1, 1, 1)
        control = {}
        if self._control_channels:
            given, beside = given.tensor_split([given.shape[1] - self._control_channels], dim=1)
            control = {"control_hidden_states": beside}
        velocity = self._transformer(
            hidden_states=given,
            timestep=self._times(timestep, batch, latents.device),
            encoder_hidden_states=text,
            **control,
            return_dict=False,
        )[0]
        assert isinstance(velocity, Tensor)
        return velocity.float()

    def observed(
        self, latents: Tensor, timestep: PrefixTimestep, text: Tensor, *, branch: str, layers: Sequence[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `engine.denoise.states.Observable`; hooks that live as long as this call, since nothing of the
        library's forward is compiled or captured."""
        split, found = timestep.prefix_tokens, dict[int, Tensor]()

        def look(layer: int, module: nn.Module, given: object, states: Tensor) -> None:
            found[layer] = pooled(states[:, split:])

        with ExitStack() as hooks:
            for layer in layers:
                block = self._transformer.blocks[layer]
                hooks.callback(block.register_forward_hook(partial(look, layer)).remove)
            velocity = self(latents, timestep, text, branch=branch)
        return velocity, tuple(found[layer] for layer in layers)
