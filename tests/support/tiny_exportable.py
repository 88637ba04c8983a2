"""The folder of a tiny generator whose attention builders fuse, and a LoRA for it; no test of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from tiny_wan import LATENT_CHANNELS, build_folder, edit


def build_exportable(folder: Path) -> Path:
    """As `tiny_wan.build_folder`, with heads of 64: those of 12 have no fused attention."""
    build_folder(folder)
    edit(folder, "retake.json", clip_prompts=True)
    torch.manual_seed(1)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=16,
        freq_dim=16,
        ffn_dim=256,
        num_layers=1,
        rope_max_seq_len=32,
    )
    shutil.rmtree(folder / "transformer")
    transformer.save_pretrained(folder / "transformer")
    return folder


def build_lora(path: Path, *, target: str = "blocks.0.attn1.to_q") -> Path:
    source = torch.Generator().manual_seed(2)
    save_file(
        {
            f"transformer.{target}.lora_A.weight": torch.randn(4, 128, generator=source),
            f"transformer.{target}.lora_B.weight": torch.randn(128, 4, generator=source),
        },
        path,
    )
    return path
