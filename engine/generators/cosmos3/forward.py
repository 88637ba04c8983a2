"""The generation tower of Cosmos3: fast blocks between the library's own embeddings, over cached text.

The text tower runs once per prompt, rotary tables are made once per shape, and the last norm and
projection see the noisy frames only. Knows no sampler and no guidance. Invariant: in fp32 with plain GEMMs it
equals the library's full forward to rounding; clean frames get no timestep and have velocity 0.
Z latent channels . F, h, w latent frames and pixels . S video tokens . L text tokens . C channels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import Cosmos3OmniTransformer
from torch import Tensor, nn
from torch.nn import functional

from engine.denoise.guidance import COND, UNCOND
from engine.denoise.layers import BoundAttention, ElementWise, quantized_blocks
from engine.denoise.sampler import PrefixTimestep
from engine.denoise.states import pooled
from engine.generators.cosmos3.block import FastCosmos3Block, LayerText
from engine.generators.cosmos3.text import prefill, video_rotary
from engine.quant.precision_policy import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the layers read of one text; its length moves the positions of the video."""

    layers: tuple[LayerText, ...]
    num_tokens: int


class FastCosmos3(nn.Module):
    """Over the modules of one Cosmos3OmniTransformer, whose parameters it shares. `fps` of the video."""

    def __init__(
        self,
        transformer: Cosmos3OmniTransformer,
        *,
        fps: float,
        element_wise: ElementWise,
        attention: BoundAttention,
        quantized_attention: BoundAttention | None,
    ) -> None:
        super().__init__()
        self.library, self.fps = transformer, fps
        self.patch_px = int(transformer.config.latent_patch_size)
        self.blocks = nn.ModuleList(
            FastCosmos3Block(
                layer,
                element_wise=element_wise,
                attention=attention,
                quantized_attention=quantized_attention or attention,
            )
            for layer in transformer.layers
        )
        self.ops = element_wise
        self.dtype: torch.dtype = transformer.proj_in.weight.dtype
        self._rotary: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def prompt(self, token_ids: Tensor) -> Prompt:
        """Of token ids [L]; runs the text tower."""
        cache = prefill(self.library, token_ids)
        layers = tuple(
            block.text(keys, values)
            for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True)
            if isinstance(block, FastCosmos3Block)
        )
        return Prompt(layers=layers, num_tokens=cache.num_tokens)

    def forward(
        self,
        latents: Tensor,
        value: float,
        prompt: Prompt,
        *,
        prefix: int,
        quantized: tuple[bool, ...],
        layers: Sequence[int] = (),
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Velocity fp32 [1, Z, F, h, w] of latents alike, of which the first `prefix` frames are clean, and
        the states behind `layers`, `pooled`; `quantized` says for each block whether its attention is the
        quantized one."""
        grid = patch_grid(latents.shape, self.patch_px)
        cos, sin = self._tables(prompt.num_tokens, grid)
        split = prefix * grid[1] * grid[2]  # tokens
        h = self.library.proj_in(patchify(latents.to(self.dtype), self.patch_px))  # [1, S, C]
        h[:, split:] += time_embedding(self.library, value)
        pending, states = None, dict[int, Tensor]()
        steps = zip(self.blocks, prompt.layers, quantized, strict=True)
        for index, (block, text, eight_bit) in enumerate(steps):
            assert isinstance(block, FastCosmos3Block)
            h, pending = block(h, pending, block.text_of_step(text, eight_bit), cos, sin, eight_bit, split)
            if index in layers:
                states[index] = pooled(h[:, split:], pending[:, split:])
        norm = self.library.norm_moe_gen
        assert pending is not None, "there are no layers"
        _, n, _ = self.ops.rms_norm(h[:, split:], pending[:, split:], norm.weight, eps=float(norm.eps))
        noisy = unpatchify(self.library.proj_out(n), (grid[0] - prefix, *grid[1:]), self.patch_px)
        velocity = torch.zeros_like(latents, dtype=torch.float32)
        velocity[:, :, prefix:] = noisy[..., : latents.shape[3], : latents.shape[4]]
        return velocity, tuple(states[layer] for layer in layers)

    def _tables(self, num_text: int, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        key = (num_text, *grid)
        if key not in self._rotary:  # those of two texts are kept, of both branches of guidance
            last = dict([*self._rotary.items()][-1:])
            self._rotary = {**last, key: video_rotary(self.library, num_text, grid, self.fps)}
        return self._rotary[key]


class Cosmos3Denoiser:
    """FastCosmos3 behind the Denoiser protocol; `quantized_ranges` are for each block the timesteps at which
    its attention is the quantized one, None: at none."""

    def __init__(
        self, model: FastCosmos3, *, quantized_ranges: tuple[tuple[Range, ...], ...] | None = None
    ) -> None:
        self.model = model
        self._quantized_ranges = ((),) * len(model.blocks) if quantized_ranges is None else quantized_ranges
        assert len(self._quantized_ranges) == len(model.blocks), "ranges are given block by block"

    def prepare(self, text: Tensor) -> Prompt:
        """text: token ids [L]."""
        return self.model.prompt(text)

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: Prompt, *, branch: str) -> Tensor:
        """Velocity float32 [1, Z, F, h, w]; prompts differ in length, so a call is one branch."""
        return self.observed(latents, timestep, text, branch=branch, layers=())[0]

    def observed(
        self, latents: Tensor, timestep: PrefixTimestep, text: Prompt, *, branch: str, layers: Sequence[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `engine.denoise.states.Observable`."""
        assert branch in (COND, UNCOND), f"branch {branch!r}: Cosmos3 predicts one at a time"
        quantized = quantized_blocks(self._quantized_ranges, timestep.value)
        made: tuple[Tensor, tuple[Tensor, ...]] = self.model(
            latents, timestep.value, text,
            prefix=timestep.prefix_frames, quantized=quantized, layers=layers,
        )  # fmt: skip
        return made


def time_embedding(transformer: Any, value: float) -> Tensor:
    """Of one timestep: [1, C], in the dtype of the tokens."""
    weight = transformer.proj_in.weight
    times = torch.full((1,), value, device=weight.device)
    features = transformer.time_proj(times * transformer.config.timestep_scale)
    embedded: Tensor = transformer.time_embedder(features.to(transformer.time_embedder.linear_1.weight.dtype))
    return embedded.to(weight.dtype)


def patch_grid(shape: Sequence[int], patch: int) -> tuple[int, int, int]:
    """Patches (frames, rows, columns) of latents [B, Z, F, h, w]; the last row and column may be half empty,
    as those of 720 lines are."""
    return shape[2], -(-shape[3] // patch), -(-shape[4] // patch)


def patchify(latents: Tensor, patch: int) -> Tensor:
    """[B, Z, F, h, w] -> [B, S, p p Z], frame by frame and row by row; zeros fill what a patch lacks."""
    height, width = latents.shape[3:]
    if height % patch or width % patch:
        latents = functional.pad(latents, (0, -width % patch, 0, -height % patch))
    cells = latents.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))  # [B, Z, F, y, p, x, q]
    tokens: Tensor = cells.permute(0, 2, 3, 5, 4, 6, 1).flatten(4).flatten(1, 3)
    return tokens


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: int) -> Tensor:
    """[B, S, p p Z] -> [B, Z, F, p y, p x], for a video of `grid` patches (frames, rows, columns)."""
    cells = tokens.unflatten(1, grid).unflatten(4, (patch, patch, -1))  # [B, F, y, x, p, q, Z]
    video: Tensor = cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
    return video
