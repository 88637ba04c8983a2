"""Which part of which Wan model a weight file is, and the configuration that its shapes say it has.

Reads names and shapes, never a weight, and imports no model library: files of the publisher and of ComfyUI
bring no configuration. What shapes do not say (heads of 128, three levels that halve the size) is the same in
every published model; that all tensors fit is for the reader to check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import ModelError
from engine.generators.wan.wan22_vae import WAN22_MEAN, WAN22_STD
from engine.weights.parts import Part

TRANSFORMER, TRANSFORMER_2, VAE, TEXT_ENCODER = "transformer", "transformer_2", "vae", "text_encoder"
HEAD_DIM = 128
VACE_CLASS: Final = "WanVACETransformer3DModel"
Shapes = Mapping[str, tuple[int, ...]]

MODEL_INDEX: Final = {
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
SCHEDULER: Final = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "num_train_timesteps": 1000,
}
SUPPORTED: Final = (
    "Wan2.2 TI2V 5B, which has a timestep for each token; Wan2.2 I2V A14B, of two files; Wan2.1 VACE"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """What the publisher says of a model outside of its weights. boundary: the share of the noise down to
    which the first of two transformers works; None: there is one."""

    pipeline: str
    flow_shift: float
    per_token: bool = False
    boundary: float | None = None


_TI2V: Final = _Model(pipeline="WanPipeline", flow_shift=5.0, per_token=True)
_I2V: Final = _Model(pipeline="WanImageToVideoPipeline", flow_shift=5.0, boundary=0.9)
_VACE: Final = _Model(pipeline="WanVACEPipeline", flow_shift=3.0)
"""As in its publisher's folder for diffusers; his own script has 16."""


HOW_TO_GET: Final = {
    TRANSFORMER_2: "the expert for the last steps, such as wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors "
    "of ComfyUI; the one for the noisy steps is named first",
    VAE: "its autoencoder, such as wan2.2_vae.safetensors of ComfyUI (of I2V A14B and VACE wan_2.1_vae), or "
    "the folder vae/",
    TEXT_ENCODER: "umT5, such as umt5_xxl_fp8_e4m3fn_scaled.safetensors of ComfyUI, or text_encoder/",
    "tokenizer": "the folder tokenizer/ of the model: hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers "
    "--include 'tokenizer/*'",
}


def documents(transformer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a folder of such files says beside them, by place; `transformer`: the configuration of its own."""
    model, part = _model_of(transformer), ["diffusers", transformer["_class_name"]]
    index = {
        "_class_name": model.pipeline,
        "expand_timesteps": model.per_token,
        "boundary_ratio": model.boundary,
        **MODEL_INDEX,
        TRANSFORMER: part,
        TRANSFORMER_2: [None, None] if model.boundary is None else part,
    }
    scheduler = {**SCHEDULER, "flow_shift": model.flow_shift}
    return {"model_index.json": index, "scheduler/scheduler_config.json": scheduler}


def _model_of(transformer: Mapping[str, Any]) -> _Model:
    if transformer["_class_name"] == VACE_CLASS:
        return _VACE
    return _TI2V if transformer["in_channels"] == transformer["out_channels"] else _I2V


def identify(shapes: Shapes) -> Part | None:
    """The part that tensors of these names and shapes are, or None; ModelError for half of one."""
    if "patch_embedding.weight" in shapes and any(name.startswith("blocks.0.") for name in shapes):
        return _transformer(shapes)
    if {"encoder.conv1.weight", "decoder.conv1.weight"} <= shapes.keys():
        return _autoencoder(shapes)
    for stem, names in _TEXT_ENCODERS.items():
        if stem in shapes:
            return _text_encoder(shapes, names)
    return None


def _transformer(shapes: Shapes) -> Part:
    own = "condition_embedder.time_proj.weight" in shapes
    time, text, feed_forward, out = (
        (
            "condition_embedder.time_embedder.linear_1",
            "condition_embedder.text_embedder.linear_1",
            "ffn.net.0.proj",
            "proj_out",
        )
        if own
        else ("time_embedding.0", "text_embedding.0", "ffn.0", "head.head")
    )
    dim, channels, *patch = _shape(shapes, "patch_embedding.weight", 5)
    layers = _count(shapes, r"blocks\.(\d+)\.")
    out_channels = _shape(shapes, f"{out}.weight", 2)[0] // (patch[0] * patch[1] * patch[2])
    config = {
        "_class_name": "WanTransformer3DModel",
        "patch_size": patch,
        "num_attention_heads": dim // HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "in_channels": channels,
        "out_channels": out_channels,
        "text_dim": _shape(shapes, f"{text}.weight", 2)[1],
        "freq_dim": _shape(shapes, f"{time}.weight", 2)[1],
        "ffn_dim": _shape(shapes, f"blocks.0.{feed_forward}.weight", 2)[0],
        "num_layers": layers,
    }
    control = _count(shapes, r"vace_blocks\.(\d+)\.")
    if control:
        config |= {
            "_class_name": VACE_CLASS,
            "vace_in_channels": _shape(shapes, "vace_patch_embedding.weight", 5)[1],
            "vace_layers": list(range(0, layers, max(1, layers // control))),
        }
    reason = _not_run(shapes, config, dim)
    size = f"{layers} blocks of width {dim}, {channels} channels"
    title = f"Wan{' VACE' if control else ''} transformer, {size}"
    return Part(kind=TRANSFORMER, title=title, config=config, not_run=reason)


def _not_run(shapes: Shapes, config: Mapping[str, Any], dim: int) -> str | None:
    """Why no take can be continued with it; None where one can."""
    starts = {name.partition(".")[0] for name in shapes}
    channels, out_channels = config["in_channels"], config["out_channels"]
    is_vace = config["_class_name"] == VACE_CLASS
    if {"face_adapter", "motion_encoder"} & starts:
        return "it animates a character (Wan Animate)"
    if "img_emb" in starts:
        return "it continues one picture (I2V) that it also reads beside the text"
    if is_vace and len(config["vace_layers"]) != (found := _count(shapes, r"vace_blocks\.(\d+)\.")):
        return f"its {found} control blocks are not at every n-th of {config['num_layers']} layers"
    if (channels, out_channels) == (16, 16) and not is_vace:
        return "it makes videos of text alone (T2V)"
    if channels != out_channels and (channels, out_channels) != (36, 16):
        return f"its {channels} input and {out_channels} output channels are of no model that is known"
    if dim % HEAD_DIM:
        return f"its width {dim} is no multiple of {HEAD_DIM}"
    return None


def _autoencoder(shapes: Shapes) -> Part:
    residual = any(name.startswith("encoder.downsamples.0.downsamples.") for name in shapes)
    base, channels, *_ = _shape(shapes, "encoder.conv1.weight", 5)
    latents = _shape(shapes, "conv2.weight", 5)[0]
    config: dict[str, Any] = {
        "_class_name": "AutoencoderKLWan",
        "base_dim": base,
        "z_dim": latents,
        "in_channels": channels,
        "out_channels": _shape(shapes, "decoder.head.2.weight", 5)[0],
    }
    if residual:
        config |= {
            "is_residual": True,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "decoder_base_dim": _shape(shapes, "decoder.head.0.gamma", 4)[0],
        }
    reason = None
    if latents == len(WAN22_MEAN):
        config |= {"latents_mean": list(WAN22_MEAN), "latents_std": list(WAN22_STD)}
    elif latents != 16 or residual:
        reason = f"mean and deviation of its {latents} latent channels are not known"
    name = "Wan2.2" if residual else "Wan2.1"
    return Part(kind=VAE, title=f"{name} autoencoder, {latents} channels", config=config, not_run=reason)


_TEXT_ENCODERS: Final = {
    "shared.weight": (
        "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    ),
    "token_embedding.weight": (
        "blocks.{}.pos_embedding.embedding.weight",
        "blocks.0.attn.q.weight",
        "blocks.0.ffn.gate.0.weight",
    ),
    "token_embd.weight": (
        "enc.blk.{}.attn_rel_b.weight",
        "enc.blk.0.attn_q.weight",
        "enc.blk.0.ffn_gate.weight",
    ),
}
"""Name of the table of tokens -> of positions in a block, of queries and of the gate, in each naming."""


def _text_encoder(shapes: Shapes, names: tuple[str, str, str]) -> Part | None:
    position, query, gate = names
    if position.format(0) not in shapes or gate not in shapes:
        return None
    table = next(stem for stem, known in _TEXT_ENCODERS.items() if known == names)
    words, width = _shape(shapes, table, 2)
    buckets, heads = _shape(shapes, position.format(0), 2)
    blocks = _count(shapes, re.escape(position).replace(r"\{\}", r"(\d+)"))
    config = {
        "model_type": "umt5",
        "architectures": ["UMT5EncoderModel"],
        "vocab_size": words,
        "d_model": width,
        "d_kv": _shape(shapes, query, 2)[0] // heads,
        "d_ff": _shape(shapes, gate, 2)[0],
        "num_layers": blocks,
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
    }
    # T5 has positions in its first block alone, umT5 in each
    has_more = _count(shapes, r".*?bl\w*\.(\d+)\.") > blocks
    reason = "it is a T5, and Wan reads umT5" if has_more else None
    title = f"umT5 text encoder, {blocks} blocks of width {width}"
    return Part(kind=TEXT_ENCODER, title=title, config=config, not_run=reason)


def _shape(shapes: Shapes, name: str, sides: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != sides:
        found = "lacks it" if shape is None else f"has it with shape {list(shape)}"
        raise ModelError(
            f"a Wan model has a tensor {name} of {sides} sides; this file {found}",
            fix="copy or download the file again, or take that of another model",
        )
    return shape


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern finds at the beginning of a name."""
    found = (re.match(pattern, name) for name in shapes)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def fits(transformer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts that are needed beside this transformer, and what the configuration of each must say."""
    second = {} if _model_of(transformer).boundary is None else {TRANSFORMER_2: dict(transformer)}
    return {
        **second,
        VAE: {"z_dim": transformer["out_channels"]},
        TEXT_ENCODER: {"d_model": transformer["text_dim"]},
    }
