"""Names that the parts of a Wan model have in files of its publisher and of tools that follow it.

Each function turns the name of a parameter here, that of diffusers or transformers, into the other one: the
transformer's and the autoencoder's by the tables of the conversion (diffusers, convert_wan_to_diffusers.py),
the text encoder's by the publisher's t5.py and by llama.cpp. ComfyUI's files have the publisher's names,
for the text encoder transformers' own. Imports no model library.
"""

from __future__ import annotations

import re
from typing import Final

from engine.weights.fill import Renaming

_Table = tuple[tuple[str, str], ...]
"""Pattern in the name here -> what the other one has there, in this order."""

_TRANSFORMER: Final[_Table] = (
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

_AUTOENCODER: Final[_Table] = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"coder\.conv_in\.", "coder.conv1."),
    (r"coder\.norm_out\.", "coder.head.0."),
    (r"coder\.conv_out\.", "coder.head.2."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.norm1\.gamma$", ".residual.0.gamma"),
    (r"(?<!coder)\.conv1\.(weight|bias)$", r".residual.2.\1"),
    (r"\.norm2\.gamma$", ".residual.3.gamma"),
    (r"\.conv2\.(weight|bias)$", r".residual.6.\1"),
    (r"\.conv_shortcut\.", ".shortcut."),
)
_BLOCK = r"^encoder\.block\.(\d+)\.layer\."
_POSITIONS = rf"{_BLOCK}0\.SelfAttention\.relative_attention_bias\."
_ATTENTION = rf"{_BLOCK}0\.SelfAttention\."
_FEED_FORWARD = rf"{_BLOCK}1\.DenseReluDense\."
_TEXT_ENCODER: Final[_Table] = (
    (r"^shared\.", "token_embedding."),
    (r"^encoder\.final_layer_norm\.", "norm."),
    (_POSITIONS, r"blocks.\1.pos_embedding.embedding."),
    (_ATTENTION, r"blocks.\1.attn."),
    (rf"{_BLOCK}0\.layer_norm\.", r"blocks.\1.norm1."),
    (rf"{_BLOCK}1\.layer_norm\.", r"blocks.\1.norm2."),
    (rf"{_FEED_FORWARD}wi_0\.", r"blocks.\1.ffn.gate.0."),
    (rf"{_FEED_FORWARD}wi_1\.", r"blocks.\1.ffn.fc1."),
    (rf"{_FEED_FORWARD}wo\.", r"blocks.\1.ffn.fc2."),
)
_LLAMA_TEXT_ENCODER: Final[_Table] = (
    (r"^shared\.", "token_embd."),
    (r"^encoder\.final_layer_norm\.", "enc.output_norm."),
    (_POSITIONS, r"enc.blk.\1.attn_rel_b."),
    (rf"{_ATTENTION}([qkvo])\.", r"enc.blk.\1.attn_\2."),
    (rf"{_BLOCK}0\.layer_norm\.", r"enc.blk.\1.attn_norm."),
    (rf"{_BLOCK}1\.layer_norm\.", r"enc.blk.\1.ffn_norm."),
    (rf"{_FEED_FORWARD}wi_0\.", r"enc.blk.\1.ffn_gate."),
    (rf"{_FEED_FORWARD}wi_1\.", r"enc.blk.\1.ffn_up."),
    (rf"{_FEED_FORWARD}wo\.", r"enc.blk.\1.ffn_down."),
)


def _by(table: _Table) -> Renaming:
    def renamed(name: str) -> str:
        for pattern, replacement in table:
            name = re.sub(pattern, replacement, name)
        return name

    return renamed


published_name = _by(_TRANSFORMER)
"""Of a part or parameter of the transformer."""
_published_vae_part = _by(_AUTOENCODER)


def published_vae_name(name: str, *, residual: bool, num_res_blocks: int) -> str:
    """Of a parameter of the autoencoder: the publisher's levels are lists of blocks, with the one that
    changes the size last; that of Wan2.1 has one list for all levels."""

    def in_level(match: re.Match[str]) -> str:
        half, level, kind, rest = match["half"], int(match["level"]), match["kind"], match["rest"]
        last = num_res_blocks + (half == "up")
        block = int(match["block"]) if kind == "resnets" else last
        where = f"{level}.{half}samples.{block}" if residual else f"{level * (last + 1) + block}"
        return f"{half}samples.{where}.{rest}"

    if residual or name.startswith("decoder."):
        name = re.sub(
            r"(?P<half>up|down)_blocks\.(?P<level>\d+)\."
            r"(?P<kind>resnets|upsamplers|upsampler|downsampler)\.((?P<block>\d+)\.)?(?P<rest>.*)",
            in_level,
            name,
        )
    return _published_vae_part(name.replace("down_blocks.", "downsamples."))


def text_encoder_namings() -> dict[str, Renaming]:
    """By whose names they are."""
    return {"transformers": str, "publisher": _by(_TEXT_ENCODER), "llama.cpp": _by(_LLAMA_TEXT_ENCODER)}
