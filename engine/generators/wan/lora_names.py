"""Names that the parts of a Wan transformer have in LoRA files of other tools.

The publisher's names follow from diffusers' by the table of its conversion (diffusers,
scripts/convert_wan_to_diffusers.py); kohya's are these with underscores for dots.
"""

from __future__ import annotations

import re
from typing import Final

from diffusers import WanTransformer3DModel

from engine.denoise.lora import aliases_of

PUBLISHED: Final = (
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^condition_embedder\.image_embedder\.norm1", "img_emb.proj.0"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj", "img_emb.proj.1"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2", "img_emb.proj.3"),
    (r"^condition_embedder\.image_embedder\.norm2", "img_emb.proj.4"),
    (r"^proj_out", "head.head"),
    (r"^scale_shift_table", "head.modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"_attn\.to_out\.0", "_attn.o"),
    (r"_attn\.to_([qkv])", r"_attn.\1"),
    (r"_attn\.add_([kv])_proj", r"_attn.\1_img"),
    (r"_attn\.norm_added_k", "_attn.norm_k_img"),
    (r"\.ffn\.net\.0\.proj", ".ffn.0"),
    (r"\.ffn\.net\.2", ".ffn.2"),
    (r"^(vace_blocks\.\d+)\.proj_in", r"\1.before_proj"),
    (r"^(vace_blocks\.\d+)\.proj_out", r"\1.after_proj"),
    (r"^((?:vace_)?blocks\.\d+)\.norm2", r"\1.norm3"),  # the one with weights, before the cross-attention
    (r"^((?:vace_)?blocks\.\d+)\.scale_shift_table", r"\1.modulation"),
)
"""Pattern in diffusers' name -> what the publisher has there, in this order."""


def published_name(name: str) -> str:
    for pattern, replacement in PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return name


def lora_aliases(transformer: WanTransformer3DModel) -> dict[str, str]:
    """Names of other tools -> names here, of modules with weights and of bare parameters."""
    names = {name.rpartition(".")[0] for name, _ in transformer.named_parameters()}
    tables = {name for name, _ in transformer.named_parameters() if name.endswith("scale_shift_table")}
    return aliases_of(sorted((names - {""}) | tables), published_name)
