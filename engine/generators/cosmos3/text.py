"""The text of Cosmos3 as its generation tower reads it: keys and values of every layer, once per prompt.

The text tower is causal over the text and sees neither video nor timestep, so what it hands over is
the same at every step. Knows no sampler. Invariant: the numbers of the library's full forward.
L text tokens . S video tokens . C channels . A heads . K heads of keys and values . D head size
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import (
    get_3d_mrope_ids_text_tokens,
    get_3d_mrope_ids_vae_tokens,
)
from torch import Tensor
from torch.nn import functional

from engine.machine.device import to_device

FRAMES_PER_LATENT = 4
"""Of the family's video autoencoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCache:
    """What the generation tower reads of one prompt, a tensor [1, L, K, D] per layer, rotated."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def num_tokens(self) -> int:
        return self.keys[0].shape[1]


@torch.no_grad()
def prefill(transformer: Any, token_ids: Tensor, positions: Tensor | None = None) -> TextCache:
    """Runs the text tower of a Cosmos3OmniTransformer over token ids [L].

    positions [3, L]: by default those of a text that stands first.
    """
    if positions is None:
        positions, _ = get_3d_mrope_ids_text_tokens(
            len(token_ids), 0, use_float_positions=transformer.config.enable_fps_modulation
        )
    cos, sin = (table.unsqueeze(1) for table in rotary_tables(transformer, positions))  # [L, 1, D]
    table = transformer.embed_tokens.weight.device  # the host where the tower visits
    hidden = transformer.embed_tokens(to_device(token_ids, table))  # [L, C]
    keys, values = [], []
    for layer in transformer.layers:
        attn = layer.self_attn
        x = layer.input_layernorm(hidden)
        q, k, v = (
            project(x).unflatten(-1, (-1, attn.head_dim)) for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        k = attn.norm_k(k)
        shown = k if attn.k_norm_und_for_gen is None else attn.k_norm_und_for_gen(k)
        q, k, shown = (rotate(tensor, cos, sin) for tensor in (attn.norm_q(q), k, shown))
        keys.append(shown[None].contiguous())
        values.append(v[None].contiguous())
        heads_first = [tensor.transpose(0, 1)[None] for tensor in (q, k, v)]  # [1, A or K, L, D]
        out = functional.scaled_dot_product_attention(
            heads_first[0], heads_first[1], heads_first[2], is_causal=True, enable_gqa=True
        )
        hidden = hidden + attn.to_out(out[0].transpose(0, 1).flatten(1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return TextCache(keys=tuple(keys), values=tuple(values))


def video_rotary(
    transformer: Any, num_text: int, grid: tuple[int, int, int], fps: float
) -> tuple[Tensor, Tensor]:
    """cos and sin, fp32 [S, D], of a video of `grid` patches (frames, rows, columns) behind a text.

    In the rounding of the transformer's dtype, as the library has them.
    """
    cos, sin = rotary_tables(transformer, video_positions(transformer.config, num_text, grid, fps))
    return cos.float().contiguous(), sin.float().contiguous()


def video_positions(config: Any, num_text: int, grid: tuple[int, int, int], fps: float) -> Tensor:
    """[3, S], on the host."""
    positions: Tensor = get_3d_mrope_ids_vae_tokens(
        *grid,
        temporal_offset=num_text + config.unified_3d_mrope_temporal_modality_margin,
        reset_spatial_indices=config.unified_3d_mrope_reset_spatial_ids,
        fps=fps if config.enable_fps_modulation else None,
        base_fps=float(config.base_fps),
        temporal_compression_factor=FRAMES_PER_LATENT,
    )[0]
    return positions


def rotary_tables(transformer: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [S, D] of positions [3, S], as the library's rotary embedding makes them."""
    weight = transformer.proj_in.weight
    if weight.is_meta:  # there the library cannot switch autocasting off
        shape = (positions.shape[1], transformer.config.head_dim)
        table = torch.empty(shape, dtype=weight.dtype, device="meta")
        return table, torch.empty_like(table)
    positions = to_device(positions, weight.device).unsqueeze(1)
    cos, sin = transformer.rotary_emb(positions, device=weight.device, dtype=weight.dtype)
    return cos.squeeze(0), sin.squeeze(0)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., D], pairs split by halves."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
