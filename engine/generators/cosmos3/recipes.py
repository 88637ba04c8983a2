"""What of a Cosmos3 transformer may be 8-bit: the linear layers of its generation tower. Runs no model."""

from __future__ import annotations

import dataclasses

from torch import nn

from engine.quant.recipes import Kept, QuantRecipe

_QUANTIZED = (
    "self_attn.add_q_proj",
    "self_attn.add_k_proj",
    "self_attn.add_v_proj",
    "self_attn.to_add_out",
    "mlp_moe_gen.up_proj",
    "mlp_moe_gen.down_proj",
)
_QKV = ("self_attn.add_q_proj", "self_attn.add_k_proj", "self_attn.add_v_proj")
_KEPT_IN_BLOCK = tuple(
    Kept(pattern=pattern, why="text tower: computed once per prompt, so 8 bits save nothing")
    for pattern in ("self_attn.to_q", "self_attn.to_k", "self_attn.to_v", "self_attn.to_out", "mlp.*_proj")
)
_WORDS = Kept(pattern="lm_head*", why="makes words, which no step asks for")
_IDLE = tuple(
    Kept(pattern=f"{name}*", why="sound and actions, which no step asks for")
    for name in ("audio_proj_in", "audio_proj_out")
)
COSMOS3_EDGE = QuantRecipe(
    family="cosmos3_edge",
    blocks="layers",
    num_first_kept=1,
    num_last_kept=1,
    quantized=_QUANTIZED,
    merged=(_QKV,),
    kept_in_block=_KEPT_IN_BLOCK,
    kept=(
        Kept(pattern="proj_in*", why="the first layer that sees the latents"),
        Kept(pattern="time_embedder.*", why="the timestep decides the size of the step"),
        Kept(pattern="proj_out*", why="the final projection is the velocity itself"),
        _WORDS,
    ),
)
COSMOS3 = dataclasses.replace(
    COSMOS3_EDGE,
    family="cosmos3",
    quantized=(*_QUANTIZED, "mlp_moe_gen.gate_proj"),
    merged=(_QKV, ("mlp_moe_gen.gate_proj", "mlp_moe_gen.up_proj")),
)


def cosmos3_recipe(transformer: nn.Module) -> QuantRecipe:
    """With or without a gate in the feed-forward layers, words and sound, as the weights say."""
    names = [name for name, _ in transformer.named_modules()]
    recipe = COSMOS3 if any(name.endswith("mlp_moe_gen.gate_proj") for name in names) else COSMOS3_EDGE
    kept = [rule for rule in recipe.kept if rule.pattern != _WORDS.pattern or "lm_head" in names]
    return dataclasses.replace(recipe, kept=(*kept, *(rule for rule in _IDLE if rule.pattern[:-1] in names)))
