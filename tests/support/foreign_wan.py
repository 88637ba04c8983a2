"""A tiny model of the layout of Wan2.2-TI2V-5B as the files that ComfyUI and GGUF users have of it.

48 latent channels, heads of 128, a residual autoencoder: what the reader knows of published models holds.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from foreign_files import save, scaled_fp8, write_gguf
from tiny_wan import SIDECAR, build_tokenizer
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from engine.generators.wan.published_names import published_name, published_vae_name, text_encoder_namings
from engine.generators.wan.wan22_vae import WAN22_LAYOUT, WAN22_MEAN, WAN22_STD

TEXT_WIDTH = 32


@dataclass(frozen=True)
class TinyWan22:
    """The modules of which the files are made, in fp32."""

    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel


def build(tokens: int) -> TinyWan22:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=128,
        in_channels=48,
        out_channels=48,
        text_dim=TEXT_WIDTH,
        freq_dim=32,
        ffn_dim=256,
        num_layers=2,
    )
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        latents_mean=list(WAN22_MEAN),
        latents_std=list(WAN22_STD),
        **WAN22_LAYOUT,
    )
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=tokens, d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )
    with torch.no_grad():
        for parameter in transformer.parameters():  # the library starts many of them at 0 or 1
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return TinyWan22(transformer.eval(), vae.eval(), encoder.eval())


def published(model: TinyWan22) -> dict[str, Tensor]:
    """The transformer by its publisher's names."""
    return {published_name(name): tensor for name, tensor in model.transformer.state_dict().items()}


def published_vae(model: TinyWan22) -> dict[str, Tensor]:
    renamed = functools.partial(published_vae_name, residual=True, num_res_blocks=2)
    return {renamed(name): tensor for name, tensor in model.vae.state_dict().items()}


def text_encoder_tensors(model: TinyWan22, naming: str = "transformers") -> dict[str, Tensor]:
    renamed = text_encoder_namings()[naming]
    return {renamed(name): tensor for name, tensor in model.text_encoder.named_parameters()}


def is_layer(name: str) -> bool:
    """Of those that ComfyUI's files have in FP8."""
    return name.startswith("blocks.") and name.endswith(".weight") and ".norm" not in name


def gguf_type(name: str, tensor: Tensor) -> str:
    """As city96's converter: rows of 256 quantized, and what is small or has one side in fp32."""
    return "Q8_0" if is_layer(name) and tensor.dim() == 2 else "F32"


@dataclass(frozen=True)
class Files:
    """Paths of one folder. `scaled` and `gguf` are the transformer's too."""

    plain: Path
    scaled: Path
    gguf: Path
    vae: Path
    text_encoder: Path
    tokenizer: Path


def write_files(folder: Path) -> tuple[TinyWan22, Files]:
    tokenizer = build_tokenizer()
    model = build(len(tokenizer))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    transformer = published(model)
    return model, Files(
        plain=save(folder / "wan2.2_ti2v_5B.safetensors", transformer, prefix="model.diffusion_model."),
        scaled=save(folder / "wan2.2_ti2v_5B_fp8_scaled.safetensors", scaled_fp8(transformer, is_layer)),
        gguf=write_gguf(folder / "Wan2.2-TI2V-5B-Q8_0.gguf", transformer, gguf_type),
        vae=save(folder / "wan2.2_vae.safetensors", published_vae(model)),
        text_encoder=save(folder / "umt5_xxl.safetensors", text_encoder_tensors(model)),
        tokenizer=folder / "tokenizer",
    )


def small_defaults(folder: Path) -> None:
    """What a take of the folder is, small enough for a test."""
    (folder / "retake.json").write_text(json.dumps(SIDECAR), encoding="utf-8")
