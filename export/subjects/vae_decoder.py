"""The decoder of the Wan autoencoder as an export subject: a fixed number of latent frames in one pass.

Takes latents as the transformer leaves them (normalised) and gives pixels. Knows no prompts and no steps.
Invariant: the same pixels as the library's frame-by-frame decoding.
B batch . Z latent channels . F latent frames . h, w latent pixels . T = 4 (F - 1) + 1 frames . H, W pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock
from torch import Tensor, nn

from engine.autoencoder.vae import TEMPORAL_STRIDE, decode_pixels
from export.artifacts.weights import folder_digest, module_digest
from export.spec import ExportSpec, Gate, Profile, Subject, TensorSpec, Tolerance, recipe_of
from export.subjects._loading import component_folder, load_module

SUBJECT = "vae_decoder"
TOLERANCE = {
    "bf16": Tolerance(relative=0.03, cosine=0.9995),
    "fp16": Tolerance(relative=0.01, cosine=0.9999),
}
"""Its convolutions are not quantized."""


def prepare(source: Path | AutoencoderKLWan, *, profiles: Sequence[Profile], dtype: str = "fp16") -> Subject:
    """The subject of a diffusers folder or a loaded module. Sizes of a profile: B, F, h and w.

    Raises ExportError for an unreadable folder or a profile without these sizes.
    """
    if isinstance(source, Path):
        folder = component_folder(source, "vae")
        digest = folder_digest(folder)
        vae = load_module(folder, AutoencoderKLWan, dtype)
    else:
        vae, digest = source, module_digest(source)
    stride = vae.config.scale_factor_spatial
    full = tuple(
        replace(profile, sizes={**profile.sizes, **_pixel_sizes(profile, stride)}) for profile in profiles
    )
    spec = ExportSpec(
        subject=SUBJECT,
        inputs=(TensorSpec(name="latents", dims=("B", vae.config.z_dim, "F", "h", "w"), dtype="fp32"),),
        outputs=(TensorSpec(name="pixels", dims=("B", 3, "T", "H", "W"), dtype="fp32"),),
        profiles=full,
        tolerance=TOLERANCE,
        weights_digest=digest,
    )
    shape = spec.input("latents").shape(full[0].sizes)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return Subject(
        module=WanDecode(vae).eval().requires_grad_(False),
        spec=spec,
        inputs=(example.to(vae.post_quant_conv.weight.device),),
        gate=_gate,
    )


class FrameAttention(nn.Module):
    """Takes over the weights of a WanAttentionBlock: one head over the pixels of a frame, written out.

    As one operator it would have to be fused, and no builder has a kernel for a head as wide as the channels.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm, self.to_qkv, self.proj = block.norm, block.to_qkv, block.proj

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, h, w] -> the same."""
        batch, channels, frames, height, width = x.shape
        hidden = self.to_qkv(self.norm(x.transpose(1, 2).flatten(0, 1)))  # [B F, 3 C, h, w]
        q, k, v = hidden.flatten(2).chunk(3, dim=1)  # [B F, C, h w]
        scores = torch.matmul(q.transpose(1, 2) * channels**-0.5, k)
        attended = torch.matmul(v, torch.softmax(scores, dim=-1).transpose(1, 2))
        update = self.proj(attended.unflatten(2, (height, width)))
        change: Tensor = update.unflatten(0, (batch, frames)).transpose(1, 2)
        return x + change


class WanDecode(nn.Module):
    """Normalised latents [B, Z, F, h, w] fp32 -> pixels [B, 3, T, H, W] fp32 in [-1, 1]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        names = [name for name, block in vae.decoder.named_modules() if isinstance(block, WanAttentionBlock)]
        assert names, "the decoder has no attention block"
        for name in names:
            vae.decoder.set_submodule(name, FrameAttention(vae.decoder.get_submodule(name)))
        self.vae = vae
        # buffers, not tensors made on the way: those would be constants of another device in the graph
        for name, values in (("mean", vae.config.latents_mean), ("deviation", vae.config.latents_std)):
            channels = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1, 1)
            self.register_buffer(name, channels.to(vae.post_quant_conv.weight.device))

    def forward(self, latents: Tensor) -> Tensor:
        plain = (latents * self.deviation + self.mean).to(self.vae.post_quant_conv.weight.dtype)
        return decode_pixels(self.vae, plain).float()


def _pixel_sizes(profile: Profile, stride: int) -> dict[str, int]:
    sizes = profile.sizes
    return {
        pixel: scale * sizes[latent] - offset
        for pixel, latent, scale, offset in (
            ("T", "F", TEMPORAL_STRIDE, TEMPORAL_STRIDE - 1),
            ("H", "h", stride, 0),
            ("W", "w", stride, 0),
        )
        if latent in sizes
    }


def _gate(recipe: str, compute_capability: int) -> Gate:
    """No fused attention is asked for: see `FrameAttention`."""
    return Gate(
        num_fused_attention=0,
        fused_attention_dtype=recipe_of(recipe).dtype,
        num_fp8_gemm=0,
        num_int8_gemm=0,
        merged_qkv=False,
        max_activation_bytes=None,
    )
