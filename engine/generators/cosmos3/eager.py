"""The library's generation tower over cached text as a denoiser: what every faster one is compared with.

Runs the library's own modules in the library's own order; only the text tower, which would make the same keys
and values at every step, runs once a prompt. Knows no sampler and no guidance.
Z latent channels . F, h, w latent frames and pixels . S video tokens . L text tokens . C channels
A heads . K heads of keys and values . D head size
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from engine.denoise.guidance import COND, UNCOND
from engine.denoise.sampler import PrefixTimestep
from engine.denoise.states import pooled
from engine.generators.cosmos3.forward import patch_grid, patchify, time_embedding, unpatchify
from engine.generators.cosmos3.text import TextCache, prefill, rotary_tables, rotate, video_positions


class EagerDenoiser:
    """The oracle: one branch a call."""

    def __init__(self, transformer: Any, *, fps: float) -> None:
        self._model = transformer
        self._fps = fps
        self._dtype: torch.dtype = transformer.proj_in.weight.dtype
        self._rotary: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def prepare(self, text: Tensor) -> TextCache:
        """text: token ids [L]."""
        return prefill(self._model, text)

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: TextCache, *, branch: str) -> Tensor:
        """Velocity float32 [1, Z, F, h, w] of latents alike; 0 on the prefix."""
        return self.observed(latents, timestep, text, branch=branch, layers=())[0]

    def observed(
        self,
        latents: Tensor,
        timestep: PrefixTimestep,
        text: TextCache,
        *,
        branch: str,
        layers: Sequence[int],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `engine.denoise.states.Observable`."""
        assert branch in (COND, UNCOND), f"branch {branch!r}: Cosmos3 predicts one at a time"
        model, prefix = self._model, timestep.prefix_frames
        patch = int(model.config.latent_patch_size)
        grid = patch_grid(latents.shape, patch)
        cos, sin = self._tables(text.num_tokens, grid)
        split = prefix * grid[1] * grid[2]
        hidden = model.proj_in(patchify(latents.to(self._dtype), patch))[0]  # [S, C]
        hidden[split:] += time_embedding(model, timestep.value)
        states = dict[int, Tensor]()
        for index, (layer, keys, values) in enumerate(zip(model.layers, text.keys, text.values, strict=True)):
            attended = _attend(layer, layer.input_layernorm_moe_gen(hidden), keys[0], values[0], cos, sin)
            hidden = hidden + attended
            hidden = hidden + layer.mlp_moe_gen(layer.post_attention_layernorm_moe_gen(hidden))
            if index in layers:
                states[index] = pooled(hidden[None, split:])
        noisy = model.proj_out(model.norm_moe_gen(hidden)[split:])
        video = unpatchify(noisy[None], (grid[0] - prefix, *grid[1:]), patch)
        velocity = torch.zeros_like(latents, dtype=torch.float32)
        velocity[:, :, prefix:] = video[..., : latents.shape[3], : latents.shape[4]]
        return velocity, tuple(states[layer] for layer in layers)

    def _tables(self, num_text: int, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """[S, 1, D] each; they differ with the length of the text, and are the same at every step."""
        key = (num_text, *grid)
        if key not in self._rotary:
            positions = video_positions(self._model.config, num_text, grid, self._fps)
            cos, sin = rotary_tables(self._model, positions)
            self._rotary = {**dict([*self._rotary.items()][-1:]), key: (cos.unsqueeze(1), sin.unsqueeze(1))}
        return self._rotary[key]


def _attend(layer: Any, x: Tensor, keys: Tensor, values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Full attention of the video [S, C] over text [L, K, D] and video."""
    attn = layer.self_attn
    q, k, v = (
        project(x).unflatten(-1, (-1, attn.head_dim))
        for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    q, k = (rotate(norm(t), cos, sin) for norm, t in ((attn.norm_added_q, q), (attn.norm_added_k, k)))
    out = dispatch_attention_fn(
        q[None], torch.cat([keys, k])[None], torch.cat([values, v])[None], is_causal=False, enable_gqa=True
    )
    projected: Tensor = attn.to_add_out(out[0].flatten(-2))
    return projected
