"""Autoencoders of random weights that are decoded with, their sizes, and what is exact for them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.perf.end_to_end.sizes import WAN22_VAE
from engine.autoencoder.vae import decode_pixels
from kernels.fused.formats import FP8, quantize_rows, to_format


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Latent frames, height, width; the configuration of the autoencoder where it is not Wan2.1's."""

    latents: tuple[int, int, int]
    config: Mapping[str, Any]


SIZES: Final = {
    "480p": Size(latents=(21, 60, 104), config={}),
    "720p": Size(latents=(31, 44, 80), config=WAN22_VAE),
    "draft": Size(latents=(21, 30, 52), config={}),
    "tiny": Size(latents=(3, 4, 6), config={"base_dim": 32, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 2]}),
}
"""81 frames of 480x832 and 240x416 pixels by Wan2.1's autoencoder, 121 of 704x1280 by that of Wan2.2 5B, and
one for a dry run."""


def build(size: str, device: torch.device) -> AutoencoderKLWan:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**SIZES[size].config)
    return vae.to(device, torch.bfloat16).eval().requires_grad_(False)


def latents_of(size: str, vae: AutoencoderKLWan, device: torch.device) -> Tensor:
    shape = (1, vae.config.z_dim, *SIZES[size].latents)
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device, dtype=vae.dtype)


def tflop_of(vae: AutoencoderKLWan, shape: Sequence[int]) -> float:
    """TFLOP of the library's way, counted without computing: what every way's TFLOP/s are stated in."""
    nowhere = copy.deepcopy(vae).to("meta")
    with FlopCounterMode(display=False) as counter:
        nowhere.decode(torch.empty(shape, device="meta", dtype=vae.dtype))
    return float(counter.get_total_flops()) / 1e12


def exact_pixels(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """By the library in fp32 from the same rounded weights; two results in bf16 differ by both errors."""
    wide = copy.deepcopy(vae).float()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        pixels: Tensor = wide.decode(latents.float(), return_dict=False)[0]
    return pixels


def fp8_pixels(vae: AutoencoderKLWan, latents: Tensor, names: Sequence[str]) -> Tensor:
    """By the library in bf16, inputs and weights of the convolutions `names` rounded to E4M3 before: how far
    from exact FP8 has to be."""
    rounded = copy.deepcopy(vae)
    for name in names:
        conv = rounded.get_submodule(name)
        codes, scale = quantize_rows(conv.weight.flatten(1), FP8)
        conv.weight.copy_((codes.float() * scale).view_as(conv.weight))
        conv.register_forward_pre_hook(_Rounding(rounded.get_submodule(name.replace("conv", "norm"))))
    return decode_pixels(rounded, latents, 4)


class _Rounding:
    """Of the input of a convolution, and of the frames before, by the bound of its norm."""

    def __init__(self, norm: WanRMS_norm) -> None:
        self.unit = norm.gamma.abs().max().float() * norm.gamma.numel() ** 0.5 / FP8.max

    def __call__(self, module: object, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._rounded(values) if isinstance(values, Tensor) else values for values in given)

    def _rounded(self, values: Tensor) -> Tensor:
        wide: Tensor = to_format(values.float() / self.unit, FP8).float() * self.unit
        return wide.to(values.dtype)
