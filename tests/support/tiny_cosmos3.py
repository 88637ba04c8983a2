"""Tiny Cosmos3 transformers and the library's full forward as a pipeline calls it; no test of its own."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Cosmos3OmniTransformer
from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import (
    get_3d_mrope_ids_text_tokens,
    get_3d_mrope_ids_vae_tokens,
)
from tiny_denoise import bound
from torch import Tensor

from engine.denoise.layers import BoundAttention
from engine.denoise.sampler import PrefixTimestep

CHANNELS, FRAMES, ROWS, COLUMNS, PATCH = 4, 3, 2, 3, 2
TEXT_TOKENS, VOCABULARY, FPS = 7, 40, 16.0
SUPER: dict[str, Any] = {"hidden_act": "silu"}
EDGE: dict[str, Any] = {"hidden_act": "relu2", "qk_norm_for_text": False, "use_und_k_norm_for_gen": True}


def transformer(
    layout: dict[str, Any] | None = None, *, num_layers: int = 3, seed: int = 0, **changes: Any
) -> Any:
    """Random, also in the norms: ones would hide one that is forgotten."""
    torch.manual_seed(seed)
    config = {
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "latent_channel": CHANNELS,
        "patch_latent_dim": CHANNELS * PATCH * PATCH,
        "num_attention_heads": 4,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "rope_axes_dim": (4, 2, 2),
    }
    made = Cosmos3OmniTransformer(**config | (layout or SUPER) | changes).eval()
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.data = 1 + 0.3 * torch.randn_like(parameter)
    return made.requires_grad_(False)


def latents(seed: int = 1) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(1, CHANNELS, FRAMES, PATCH * ROWS, PATCH * COLUMNS, generator=source)


def token_ids(count: int = TEXT_TOKENS, seed: int = 2) -> Tensor:
    return torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))


def at(value: float, *, prefix_frames: int = 1) -> PrefixTimestep:
    return PrefixTimestep(
        value=value, prefix_frames=prefix_frames, latent_frames=FRAMES, tokens_per_frame=ROWS * COLUMNS
    )


@torch.no_grad()
def library(model: Any, video: Tensor, text: Tensor, timestep: PrefixTimestep, fps: float = FPS) -> Tensor:
    """The velocity of the full forward: both towers, positions as the pipeline makes them."""
    words, offset = get_3d_mrope_ids_text_tokens(len(text), 0, use_float_positions=True)
    margin = model.config.unified_3d_mrope_temporal_modality_margin
    cells, _ = get_3d_mrope_ids_vae_tokens(FRAMES, ROWS, COLUMNS, offset + margin, fps=fps)
    count, length = cells.shape[1], len(text) + cells.shape[1]
    split = timestep.prefix_tokens
    velocity: Tensor = model(
        input_ids=text,
        text_indexes=torch.arange(len(text)),
        position_ids=torch.cat([words, cells], dim=1),
        und_len=len(text),
        sequence_length=length,
        vision_tokens=[video.to(model.proj_in.weight.dtype)],
        vision_token_shapes=[(FRAMES, ROWS, COLUMNS)],
        vision_sequence_indexes=torch.arange(len(text), length),
        vision_mse_loss_indexes=torch.arange(len(text) + split, length),
        vision_timesteps=torch.full((count - split,), timestep.value),
        vision_noisy_frame_indexes=[torch.arange(timestep.prefix_frames, FRAMES)],
        return_dict=False,
    )[0][0]
    return velocity.float()


def e4m3(seen: list[tuple[int, ...]], *, grouped: bool) -> BoundAttention:
    """An attention that only dequantizes what it is given: scales, layout and order must fit."""

    def quantized(q: Tensor, k: Tensor, v: Tensor, *scales: Tensor, scale: float) -> Tensor:
        seen.append(tuple(k.shape))
        for x, factor in zip((k, k, v), scales, strict=True):
            assert factor.shape == x.shape[:2] and factor.dtype == torch.float32
        groups = q.shape[1] // k.shape[1]
        wide = []
        for x, factor in zip((q, k, v), scales, strict=True):
            assert x.dtype == torch.float8_e4m3fn
            per_head = factor.repeat_interleave(x.shape[1] // factor.shape[1], dim=1)
            wide.append(x.float() * per_head[:, :, None, None])
        k, v = (x.repeat_interleave(groups, dim=1) for x in wide[1:])
        out: Tensor = bound().run(wide[0], k, v, scale=scale)
        return out

    return BoundAttention(name="e4m3", run=bound().run, quantized=quantized, grouped=grouped)
