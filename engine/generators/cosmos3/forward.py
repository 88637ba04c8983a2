"""The generation tower of Cosmos3: fast blocks between the library's own embeddings, over cached text.

The understanding tower runs once per prompt, rotary tables are made once per shape, and the last norm and
projection see the noisy frames only. Knows no sampler and no guidance. Invariant: in fp32 with plain GEMMs it
equals the library's full forward to rounding; clean frames get no timestep and have velocity 0.
Z latent channels . F, h, w latent frames and pixels . S video tokens . L text tokens . C channels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import Cosmos3OmniTransformer
from torch import Tensor, nn

from engine.denoise.guidance import COND, UNCOND
from engine.denoise.layers import BoundAttention, ElementWise, quantized_blocks
from engine.denoise.sampler import PrefixTimestep
from engine.generators.cosmos3.block import FastCosmos3Block, LayerText
from engine.generators.cosmos3.text import prefill, video_rotary
from engine.quant.precision_policy import Range
from engine.quant.recipes import SurgeryError


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
        config = transformer.config
        if config.sound_gen or config.action_gen:
            raise SurgeryError(
                "the transformer also generates sound or actions, which the fast forward does not know",
                fix="use a video-only checkpoint",
            )
        self.library, self.fps = transformer, fps
        self.patch_px = int(config.latent_patch_size)
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
        """Of token ids [L]; runs the understanding tower."""
        cache = prefill(self.library, token_ids)
        layers = tuple(
            block.text(keys, values)
            for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True)
            if isinstance(block, FastCosmos3Block)
        )
        return Prompt(layers=layers, num_tokens=cache.num_tokens)

    def forward(
        self, latents: Tensor, value: float, prompt: Prompt, *, prefix: int, quantized: tuple[bool, ...]
    ) -> Tensor:
        """Velocity fp32 [1, Z, F, h, w] of latents alike, of which the first `prefix` frames are clean;
        `quantized` says for each block whether its attention is the quantized one."""
        _, _, frames, height, width = latents.shape
        grid = (frames, height // self.patch_px, width // self.patch_px)
        cos, sin = self._tables(prompt.num_tokens, grid)
        split = prefix * grid[1] * grid[2]  # tokens
        h = self.library.proj_in(patchify(latents.to(self.dtype), self.patch_px))  # [1, S, C]
        h[:, split:] += self._time(value)
        pending = None
        for block, text, eight_bit in zip(self.blocks, prompt.layers, quantized, strict=True):
            assert isinstance(block, FastCosmos3Block)
            h, pending = block(h, pending, block.text_of_step(text, eight_bit), cos, sin, eight_bit)
        norm = self.library.norm_moe_gen
        assert pending is not None, "there are no layers"
        _, n, _ = self.ops.rms_norm(h[:, split:], pending[:, split:], norm.weight, eps=float(norm.eps))
        noisy = unpatchify(self.library.proj_out(n), (frames - prefix, *grid[1:]), self.patch_px)
        velocity = torch.zeros_like(latents, dtype=torch.float32)
        velocity[:, :, prefix:] = noisy
        return velocity

    def _time(self, value: float) -> Tensor:
        """The embedding of one timestep [1, C], in the dtype of the tokens."""
        model = self.library
        times = torch.full((1,), value, device=model.proj_in.weight.device)
        features = model.time_proj(times * model.config.timestep_scale)
        embedded: Tensor = model.time_embedder(features.to(model.time_embedder.linear_1.weight.dtype))
        return embedded.to(self.dtype)

    def _tables(self, num_text: int, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        key = (num_text, *grid)
        if key not in self._rotary:
            self._rotary[key] = video_rotary(self.library, num_text, grid, self.fps)
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
        assert branch in (COND, UNCOND), f"branch {branch!r}: Cosmos3 predicts one at a time"
        quantized = quantized_blocks(self._quantized_ranges, timestep.value)
        velocity: Tensor = self.model(
            latents, timestep.value, text, prefix=timestep.prefix_frames, quantized=quantized
        )
        return velocity


def patchify(latents: Tensor, patch: int) -> Tensor:
    """[B, Z, F, h, w] -> [B, S, p p Z], frame by frame and row by row."""
    cells = latents.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))  # [B, Z, F, y, p, x, q]
    tokens: Tensor = cells.permute(0, 2, 3, 5, 4, 6, 1).flatten(4).flatten(1, 3)
    return tokens


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: int) -> Tensor:
    """The inverse, for a video of `grid` patches (frames, rows, columns)."""
    cells = tokens.unflatten(1, grid).unflatten(4, (patch, patch, -1))  # [B, F, y, x, p, q, Z]
    video: Tensor = cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
    return video
