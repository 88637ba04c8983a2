"""What of a Wan transformer may be 8-bit, and how a calibration reads its self-attention. Runs no model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from engine.generators.wan.own_prefix import OwnPrefix
from engine.quant.attention_error import Projected
from engine.quant.recipes import Kept, QuantRecipe

_QUANTIZED = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "attn2.to_q",
    "attn2.to_out.0",
    "ffn.net.0.proj",
    "ffn.net.2",
)
_MERGED = (("attn1.to_q", "attn1.to_k", "attn1.to_v"),)
_KEPT_IN_BLOCK = (
    Kept(pattern="attn2.to_k", why="text keys: computed once per prompt, so 8 bits save nothing"),
    Kept(pattern="attn2.to_v", why="text values: computed once per prompt, so 8 bits save nothing"),
    Kept(pattern="scale_shift_table", why="modulation multiplies every channel of every token"),
)
_KEPT = (
    Kept(pattern="patch_embedding.*", why="the first layer that sees the latents"),
    Kept(pattern="condition_embedder.time_embedder.*", why="the timestep decides the size of the step"),
    Kept(pattern="condition_embedder.time_proj*", why="all modulation comes out of it"),
    Kept(pattern="condition_embedder.text_embedder.*", why="computed once per prompt"),
    Kept(pattern="proj_out*", why="the final projection is the velocity itself"),
    Kept(pattern="scale_shift_table", why="modulation of the final norm"),
)

WAN = QuantRecipe(
    family="wan",
    blocks="blocks",
    num_first_kept=1,
    num_last_kept=1,
    quantized=_QUANTIZED,
    merged=_MERGED,
    kept_in_block=_KEPT_IN_BLOCK,
    kept=_KEPT,
)
WAN_IMAGE = QuantRecipe(
    family="wan_image",
    blocks="blocks",
    num_first_kept=1,
    num_last_kept=1,
    quantized=_QUANTIZED,
    merged=_MERGED,
    kept_in_block=(
        *_KEPT_IN_BLOCK,
        Kept(pattern="attn2.add_?_proj", why="image keys and values: computed once per prompt"),
    ),
    kept=(
        *_KEPT,
        Kept(pattern="condition_embedder.image_embedder.*", why="computed once per prompt"),
    ),
)
WAN_VACE = replace(
    WAN,
    family="wan_vace",
    kept=(
        *_KEPT,
        Kept(pattern="vace_patch_embedding.*", why="the first layer that sees the control"),
        Kept(pattern="vace_blocks.*", why="every hint is added to the stream, and with it its error"),
    ),
)
WAN_FAR = replace(
    WAN,
    family="wan_far",
    kept=(
        *_KEPT,
        Kept(pattern="far_patch_embedding.*", why="the first layer that sees past latents"),
        Kept(pattern="condition_embedder.delta_embedder.*", why="the timestep decides the size of the step"),
    ),
)


def wan_recipe(transformer: nn.Module) -> QuantRecipe:
    """With or without image conditioning by CLIP or a control branch, as the weights say."""
    if hasattr(transformer, "vace_blocks"):
        return WAN_VACE
    has_image = any(name.endswith("attn2.add_k_proj") for name, _ in transformer.named_modules())
    return WAN_IMAGE if has_image else WAN


def read_attention(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Projected:
    """Of a WanAttention `attn1` and what its block calls it with: (hidden states, None, None, rotary).

    Of a prefix that looks at itself alone no query is read: it is computed once a take, exactly.
    """
    x, rotary = args[0], kwargs.get("rotary_emb", args[3] if len(args) > 3 else None)
    assert rotary is not None, "a self-attention of the family wan has rotary tables"
    cos, sin = rotary
    processor = attention.processor
    return Projected(
        q=_project(attention.to_q, x),
        k=_project(attention.to_k, x),
        v=_project(attention.to_v, x),
        norm_q=attention.norm_q.weight,
        norm_k=attention.norm_k.weight,
        cos=cos.float(),
        sin=sin.float(),
        heads=int(attention.heads),
        eps=float(attention.norm_q.eps),
        first_query=processor.split(x.shape[1]) if isinstance(processor, OwnPrefix) else 0,
    )


def _project(layer: nn.Linear, x: Tensor) -> Tensor:
    """Past the layer's hooks: who measures it would count the input twice."""
    return F.linear(x, layer.weight, layer.bias)
