"""Shapes of what is measured, as data: Nano as published, and the same layout for a CPU and seconds.

Videos are those of NVIDIA's own table (NVIDIA/cosmos, inference_benchmarks.md): 189 frames, of which 73 are
the padded prefix here, 35 steps of two branches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.perf.end_to_end.sizes import FULL as REASONER
from bench.perf.end_to_end.sizes import TINY as TINY_REASONER

PREFIX_FRAMES, PADDED_PREFIX = 72, 73


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`videos`: part -> (width, height). The rest is as in bench/perf/end_to_end/sizes.py."""

    name: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    eyes: Mapping[str, Any]
    critic: Mapping[str, Any]  # settings of the reasoner
    videos: Mapping[str, tuple[int, int]]
    num_frames: int  # behind the padded prefix
    steps: int
    mrope_section: tuple[int, int, int]
    reply_tokens: int
    next_token_gain: float


NANO = Size(
    name="nano",
    transformer={},  # the library's defaults are Nano's
    vae=REASONER.vae,
    eyes=REASONER.vision,
    critic={},
    videos={"480p": (832, 480), "720p": (1280, 720)},
    num_frames=116,
    steps=35,
    mrope_section=REASONER.mrope_section,
    reply_tokens=REASONER.reply_tokens,
    next_token_gain=REASONER.next_token_gain,
)
TINY = Size(
    name="tiny",
    transformer={
        "head_dim": 32,
        "hidden_size": 128,
        "intermediate_size": 256,
        "latent_channel": 8,
        "patch_latent_dim": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
        "rope_axes_dim": (6, 5, 5),
    },
    vae=TINY_REASONER.vae,
    eyes=TINY_REASONER.vision,
    critic=TINY_REASONER.critic_sidecar,
    videos={"480p": (96, 64), "720p": (64, 48)},
    num_frames=4,
    steps=2,
    mrope_section=TINY_REASONER.mrope_section,
    reply_tokens=TINY_REASONER.reply_tokens,
    next_token_gain=TINY_REASONER.next_token_gain,
)
SIZES = {size.name: size for size in (NANO, TINY)}
