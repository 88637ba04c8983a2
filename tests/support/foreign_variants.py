"""Tiny I2V-A14B and VACE as the files that ComfyUI and GGUF users have of them, in the publisher's names."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from foreign_files import save, scaled_fp8, write_gguf
from foreign_wan import TEXT_WIDTH, gguf_type, is_layer
from tiny_wan import build_autoencoder, build_tokenizer
from tiny_wan_variants import randomised
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from engine.generators.wan.published_names import published_name, published_vae_name

HIGH, LOW, VACE = "wan2.2_i2v_high_noise_14B", "wan2.2_i2v_low_noise_14B", "wan2.1_vace_14B"
SIZES: dict[str, Any] = {
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "out_channels": 16,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 32,
    "ffn_dim": 128,
}


@dataclass(frozen=True)
class Made:
    """Transformers by name; `files`: theirs and those beside them, by what they are."""

    models: dict[str, Any]
    vae: Any
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerFast
    files: dict[str, Path]

    @property
    def beside(self) -> list[object]:
        names = (("--vae", "vae"), ("--text-encoder", "text_encoder"), ("--tokenizer", "tokenizer"))
        return [word for option, name in names for word in (option, self.files[name])]

    def file(self, name: str, kind: str, folder: Path) -> Path:
        """A transformer as ComfyUI has it, "plain" or in FP8 of either layout, or as "gguf"."""
        tensors = published(self.models[name])
        if kind == "gguf":
            return write_gguf(
                folder / f"{name}-Q8_0.gguf", tensors, lambda one, tensor: gguf_type(_base(one), tensor)
            )
        if kind != "plain":
            tensors = scaled_fp8(tensors, lambda one: is_layer(_base(one)), new=kind == "comfy_quant")
        return save(folder / f"{name}_{kind}.safetensors", tensors, prefix="model.diffusion_model.")


def _base(name: str) -> str:
    """A control block is stored as the others are."""
    return name.removeprefix("vace_")


def published(model: Any) -> dict[str, Tensor]:
    return {published_name(name): tensor for name, tensor in model.state_dict().items()}


def write_variants(folder: Path) -> Made:
    """VACE has control blocks at every second of its layers."""
    torch.manual_seed(0)
    experts = {
        name: randomised(WanTransformer3DModel(**SIZES, in_channels=36, num_layers=1), seed)
        for seed, name in enumerate((HIGH, LOW))
    }
    control = WanVACETransformer3DModel(**SIZES, in_channels=16, num_layers=4, vace_layers=[0, 2])
    models = {**experts, VACE: randomised(control, 2)}
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    sizes = {"vocab_size": len(tokenizer), "d_model": TEXT_WIDTH, "d_kv": 8, "d_ff": 32}
    encoder = UMT5EncoderModel(UMT5Config(**sizes, num_layers=1, num_heads=2)).eval()
    vae = build_autoencoder(blocks_per_level=2, latents=16)
    renamed = functools.partial(published_vae_name, residual=False, num_res_blocks=2)
    tensors = {renamed(name): tensor for name, tensor in vae.state_dict().items()}
    files = {
        name: save(folder / f"{name}.safetensors", published(model), prefix="model.diffusion_model.")
        for name, model in models.items()
    } | {
        "vae": save(folder / "wan_2.1_vae.safetensors", tensors),
        "text_encoder": save(folder / "umt5_xxl.safetensors", dict(encoder.named_parameters())),
        "tokenizer": folder / "tokenizer",
    }
    return Made(models, vae, encoder, tokenizer, files)


def library_folder(made: Made, folder: Path, *names: str) -> Path:
    """The same model as its publisher's folder for diffusers."""
    first, *second = (made.models[name] for name in names)
    parts: dict[str, Any] = {
        "tokenizer": made.tokenizer,
        "text_encoder": made.text_encoder,
        "vae": made.vae,
        "transformer": first,
        "scheduler": UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0 if second else 3.0
        ),
    }
    if second:
        pipeline: Any = WanImageToVideoPipeline(**parts, transformer_2=second[0], boundary_ratio=0.9)
    else:
        pipeline = WanVACEPipeline(**parts)
    pipeline.save_pretrained(folder)
    return folder
