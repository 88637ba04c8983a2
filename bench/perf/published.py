"""Published generators and critics that memory is planned for: their shapes, as data.

Of their configurations on the hub, and of diffusers' defaults where those are the same. Holds no weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.perf.denoisers.wan import WanSubject
from bench.perf.end_to_end.sizes import FULL, WAN22_VAE
from bench.perf.models.sizes import WAN, WAN21_VAE
from engine.generators.wan.wan22_vae import WAN22_MEAN, WAN22_STD

WIDTH, HEIGHT = 832, 480
COSMOS3_PIPELINE, FAR_PIPELINE = "Cosmos3OmniPipeline", "AnyFlowFARPipeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A measured forward by which takes of a generator may be reckoned: `subject` of bench/results/`file`.

    `tflop`: of one forward of a take of that generator; None: the subject is such a take.
    """

    file: str
    subject: str
    tflop: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """Keyword arguments of the transformer and autoencoder of diffusers."""

    transformer: Mapping[str, Any]
    vae: Mapping[str, Any] = field(default_factory=lambda: WAN21_VAE)
    transformer_class: str = "WanTransformer3DModel"
    pipeline: str | None = None
    """None: as the files of a Wan transformer say."""
    is_guided: bool = True
    """False: one forward a step, guidance is in the weights."""
    timed: Timed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Critic:
    """Keyword arguments of the configurations of transformers. `is_tied`: the head is the embedding."""

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    is_tied: bool = False
    config: str = "Qwen3VLConfig"
    mrope_section: tuple[int, ...] = FULL.mrope_section
    rotary: Mapping[str, Any] = field(default_factory=dict)


TI2V = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
WAN_1B = {**WAN, "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
WAN_14B = {**WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
BOTH_Z, I2V_CHANNELS = {"in_channels": 16, "out_channels": 16}, {"in_channels": 36, "out_channels": 16}
VACE, FAR = "WanVACETransformer3DModel", "AnyFlowFARTransformer3DModel"
I2V_FRAMES = 129
"""48 of the prefix and one before them, and 80 of the take, which is denoised as a whole."""
I2V_TAKE = WanSubject(architecture="wan2.1-14b", width=WIDTH, height=HEIGHT, num_frames=I2V_FRAMES)
COSMOS3_VAE = {**WAN22_VAE, "latents_mean": list(WAN22_MEAN), "latents_std": list(WAN22_STD)}
COSMOS3_SIZES: Mapping[str, Mapping[str, Any]] = {
    "edge": {
        "hidden_size": 2048,
        "intermediate_size": 9216,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "vocab_size": 131072,
        "hidden_act": "relu2",
        "qk_norm_for_text": False,
        "use_und_k_norm_for_gen": True,
    },
    "nano": {"sound_gen": True, "sound_dim": 64, "action_gen": True, "action_dim": 64},
    "super": {
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_attention_heads": 64,
        "num_hidden_layers": 64,
    },
}
"""What differs from Nano, whose sizes are the defaults of the library."""


def _cosmos3(size: str, timed: Timed | None = None) -> Generator:
    return Generator(
        transformer=COSMOS3_SIZES[size],
        vae=COSMOS3_VAE,
        transformer_class="Cosmos3OmniTransformer",
        pipeline=COSMOS3_PIPELINE,
        timed=timed,
    )


GENERATORS: Mapping[str, Generator] = {
    TI2V: Generator(transformer=FULL.transformer, vae=COSMOS3_VAE),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": Generator(
        transformer=WAN_14B | I2V_CHANNELS,
        timed=Timed(file="denoiser_h200_14b", subject="wan2.1-14b 480x832x81", tflop=I2V_TAKE.flops / 1e12),
    ),
    "Wan-AI/Wan2.1-VACE-1.3B-diffusers": Generator(
        transformer=WAN_1B | BOTH_Z | {"vace_layers": list(range(0, 30, 2)), "vace_in_channels": 96},
        transformer_class=VACE,
    ),
    "Wan-AI/Wan2.1-VACE-14B-diffusers": Generator(
        transformer=WAN_14B | BOTH_Z | {"vace_layers": list(range(0, 40, 5)), "vace_in_channels": 96},
        transformer_class=VACE,
    ),
    "nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers": Generator(
        transformer=WAN_1B | BOTH_Z, transformer_class=FAR, pipeline=FAR_PIPELINE, is_guided=False
    ),
    "nvidia/AnyFlow-FAR-Wan2.1-14B-Diffusers": Generator(
        transformer=WAN_14B | BOTH_Z, transformer_class=FAR, pipeline=FAR_PIPELINE, is_guided=False
    ),
    "nvidia/Cosmos3-Edge": _cosmos3("edge"),
    "nvidia/Cosmos3-Nano": _cosmos3(
        "nano", Timed(file="denoiser_h200_cosmos3", subject="cosmos3-nano 480x832x193")
    ),
    "nvidia/Cosmos3-Super": _cosmos3("super"),
}

SMALL_VISION = {**FULL.vision, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
SMALL_VISION |= {"deepstack_visual_indexes": [5, 11, 17]}
QWEN35_9B = {
    "vocab_size": 248320,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
MIDDLE_CRITIC = "Qwen/Qwen3-VL-8B-Instruct"
CRITICS: Mapping[str, Critic] = {
    "Qwen/Qwen3-VL-2B-Instruct": Critic(
        text={
            **FULL.text,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
        },
        vision=SMALL_VISION,
        is_tied=True,
    ),
    "Qwen/Qwen3-VL-4B-Instruct": Critic(
        text={**FULL.text, "hidden_size": 2560, "intermediate_size": 9728}, vision=SMALL_VISION, is_tied=True
    ),
    MIDDLE_CRITIC: Critic(text=FULL.text, vision=FULL.vision),
    "Qwen/Qwen3.5-9B": Critic(
        text=QWEN35_9B,
        vision={name: value for name, value in FULL.vision.items() if name != "deepstack_visual_indexes"},
        config="Qwen3_5Config",
        mrope_section=(11, 11, 10),
        rotary={"partial_rotary_factor": 0.25},
    ),
}
