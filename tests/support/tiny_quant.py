"""A tiny Wan whose layers can be 8-bit, and one forward of it."""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel
from eight_bit import DEVICE, normal
from torch import nn


def transformer(
    num_layers: int = 4, *, heads: int = 2, device: torch.device = DEVICE
) -> WanTransformer3DModel:
    """A tiny Wan whose widths the kernels of a GPU take."""
    torch.manual_seed(0)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=heads, attention_head_dim=32, in_channels=4, out_channels=4,
        text_dim=32, freq_dim=32, ffn_dim=128, num_layers=num_layers, rope_max_seq_len=32,
    ).eval().requires_grad_(False).to(device)  # fmt: skip


def velocity(model: nn.Module) -> torch.Tensor:
    latents, text = normal(1, 4, 3, 4, 4), normal(1, 7, 32, seed=1)
    with torch.no_grad():
        return model(latents, torch.tensor([500], device=DEVICE), text, return_dict=False)[0]
