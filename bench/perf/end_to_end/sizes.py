"""Shapes of the models and clips that a whole run is measured with, as data.

Full: the generator of Wan2.2-TI2V-5B at 480x832 behind a text encoder of the right width but few layers, the
critic of Qwen3-VL-8B, clips in 4K as the benchmark's are. Tiny: the same layouts, for a CPU and seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.generators.wan.wan22_vae import WAN22_LAYOUT

PREFIX_FRAMES, FPS = 72, 24.0
"""Of the clips, whatever the model reads of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Keyword arguments of the libraries' configurations, and of the sidecars of both folders."""

    name: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    generator_sidecar: Mapping[str, Any]
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    critic_sidecar: Mapping[str, Any]
    mrope_section: tuple[int, int, int]
    reply_tokens: int
    next_token_gain: float
    """Of the head's rows: large against what random layers add, small enough for 16 bits."""
    clip_width: int
    clip_height: int


FULL = Size(
    name="full",
    transformer={
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "in_channels": 48,
        "out_channels": 48,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 14336,
        "num_layers": 30,
    },
    vae={"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "num_res_blocks": 2},
    text_encoder={"d_model": 4096, "d_kv": 64, "d_ff": 1024, "num_layers": 2, "num_heads": 64},
    generator_sidecar={
        "fps": 24.0,
        "width": 832,
        "height": 480,
        "prefix_frames": 72,
        "num_frames": 120,
        "num_inference_steps": 16,
        "guidance_scale": 5.0,
        "clip_prompts": True,
    },
    text={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
    },
    vision={
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "patch_size": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
    },
    critic_sidecar={},
    mrope_section=(24, 20, 20),
    reply_tokens=400,
    next_token_gain=0.02,
    clip_width=3840,
    clip_height=2160,
)
TINY = Size(
    name="tiny",
    transformer={
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 8,
        "out_channels": 8,
        "text_dim": 64,
        "freq_dim": 16,
        "ffn_dim": 64,
        "num_layers": 2,
    },
    vae={"base_dim": 4, "decoder_base_dim": 8, "z_dim": 8, "num_res_blocks": 1},
    text_encoder={"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    generator_sidecar={
        "fps": 4.0,
        "width": 96,
        "height": 64,
        "prefix_frames": 12,
        "num_frames": 20,
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "clip_prompts": True,
    },
    text={
        "vocab_size": 4096,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 8192,
    },
    vision={
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 16,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0],
    },
    critic_sidecar={"num_prefix_frames": 2, "num_take_frames": 2, "frame_px": 64, "max_new_tokens": 256},
    mrope_section=(6, 5, 5),
    reply_tokens=144,
    next_token_gain=0.5,
    clip_width=192,
    clip_height=108,
)
SIZES = {size.name: size for size in (FULL, TINY)}
WAN22_VAE: Mapping[str, Any] = {
    **WAN22_LAYOUT,
    **FULL.vae,
    "latents_mean": [0.0] * FULL.vae["z_dim"],
    "latents_std": [1.0] * FULL.vae["z_dim"],
}
"""All of the published autoencoder but its statistics."""
