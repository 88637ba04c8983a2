"""Names that the parts of a Cosmos3 transformer have in LoRA files of other tools.

The publisher's names follow from diffusers' by the table of its conversion (NVIDIA/cosmos-framework,
scripts/_convert_model_to_diffusers.py); kohya's are these with underscores for dots.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.denoise.lora import Lora, aliases_of
from engine.errors import ModelError
from engine.words import counted

PUBLISHED: Final = (
    (r"\.add_([qkv])_proj$", r".\1_proj_moe_gen"),
    (r"\.to_add_out$", ".o_proj_moe_gen"),
    (r"\.norm_added_([qk])$", r".\1_norm_moe_gen"),
    (r"\.to_([qkv])$", r".\1_proj"),
    (r"\.to_out$", ".o_proj"),
    (r"\.self_attn\.norm_([qk])$", r".self_attn.\1_norm"),
    (r"^layers\.", "language_model.model.layers."),
    (r"^proj_in$", "vae2llm"),
    (r"^proj_out$", "llm2vae"),
    (r"^time_embedder\.linear_1$", "time_embedder.mlp.0"),
    (r"^time_embedder\.linear_2$", "time_embedder.mlp.2"),
)
"""Pattern in diffusers' name -> what the publisher has there, in this order."""
TEXT_PARTS: Final = re.compile(
    r"^(embed_tokens|lm_head|norm)\b|\.(to_[qkv]|to_out|norm_[qk]|k_norm_und_for_gen|mlp|input_layernorm"
    r"|post_attention_layernorm)(\.|$)"
)


def published_name(name: str) -> str:
    for pattern, replacement in PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return name


def lora_aliases(transformer: Any) -> dict[str, str]:
    """Names of other tools -> names here, of modules with weights."""
    names = {name.rpartition(".")[0] for name, _ in transformer.named_parameters()}
    return aliases_of(sorted(names - {""}), published_name)


def refuse_text_changes(loras: Sequence[Lora], aliases: Mapping[str, str]) -> None:
    """ModelError for a file that changes the tower by which the critic of the same folder reads."""
    for lora in loras:
        names = [*lora.updates, *(name for name, _ in lora.deltas)]
        changed = [name for name in names if TEXT_PARTS.search(aliases.get(name, name))]
        if changed:
            raise ModelError(
                f"{lora.name} changes {counted(len(changed), 'part')} of the text tower, among them "
                f"{changed[0]}, by which the critic of the same folder reads: it would judge otherwise",
                fix="give another critic with --critic, or a LoRA of the generation tower alone",
            )
