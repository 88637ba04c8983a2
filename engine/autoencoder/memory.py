"""Peak memory of a Wan autoencoder's passes and sizes of its latents, before and after a weight is read.

Counted on a module of the same configuration without values, which every family that uses this autoencoder
shares. On an H200 the counts are within 2 % of what was allocated (bench/results/vae_h200.json).
P prefix frames . F latent frames . h, w latent pixels . e bytes of an element
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from engine.autoencoder.vae import (
    TEMPORAL_STRIDE,
    decode_in_chunks,
    encode_moments,
    latent_frames_of,
    use_channels_last,
)
from engine.autoencoder.vae_fused import use_fused_vae
from engine.machine.counted import peak_bytes
from engine.machine.outline import frozen, without_values
from engine.types import VideoSpec

MAX_CHUNK_LATENTS = 4
"""Latent frames per pass of the autoencoder: 16 pixel frames. Larger is hardly faster, and steps grow."""

CPU_CHUNK_BYTES = 2**30
"""On a CPU a pass of the autoencoder may always take this; beyond it, what a denoise step takes (one latent
frame at least)."""


def padded(num_frames: int) -> int:
    """The next count 4k + 1."""
    return num_frames + (1 - num_frames) % TEMPORAL_STRIDE


def total_frames(spec: VideoSpec) -> int:
    """Of padded prefix and continuation together."""
    return padded(spec.prefix_frames) + spec.num_frames


def latent_shape(vae: Any, spec: VideoSpec) -> tuple[int, int, int, int, int]:
    """(1, Z, F, h, w) for padded prefix and continuation together."""
    stride = vae.config.scale_factor_spatial
    latent_frames = latent_frames_of(total_frames(spec))
    return 1, vae.config.z_dim, latent_frames, spec.height // stride, spec.width // stride


def chunk_latents(
    most: int,
    vae: AutoencoderKLWan,
    device: torch.device,
    spec: VideoSpec,
    *,
    fused: bool,
    step_bytes: Callable[[], int],
) -> int:
    """Latent frames per pass of the autoencoder: `most` where it is set, not 0; else MAX_CHUNK_LATENTS, on a
    CPU only where a denoise step takes as much, since its memory is the user's."""
    if most:
        return most
    if device.type == "cuda":
        return MAX_CHUNK_LATENTS
    return chunk_size(vae, device, spec, most_bytes=step_bytes(), fused=fused)


def chunk_size(
    vae: AutoencoderKLWan, device: torch.device, spec: VideoSpec, *, most_bytes: int, fused: bool
) -> int:
    """Latent frames per pass of the autoencoder, whose peak stays below `most_bytes`, on a CPU also below
    CPU_CHUNK_BYTES."""
    limit = max(most_bytes, CPU_CHUNK_BYTES)
    sizes = range(MAX_CHUNK_LATENTS, 1, -1)
    return next((size for size in sizes if chunk_bytes(vae, device, spec, size, fused=fused) <= limit), 1)


def chunk_bytes(
    vae: AutoencoderKLWan, device: torch.device, spec: VideoSpec, chunk_latents: int, *, fused: bool
) -> int:
    """Peak of one pass of the autoencoder, the larger one of both ways; see `encode_bytes`."""
    return max(
        _counted_vae(way, *_vae_key(vae, spec, fused), chunk_latents)
        + _unfolded(vae, device, spec, chunk_latents)
        for way in ("decode", "encode")
    )


def encode_bytes(
    vae: AutoencoderKLWan,
    device: torch.device,
    spec: VideoSpec,
    chunk_latents: int,
    *,
    fused: bool,
    num_frames: int | None = None,
) -> int:
    """Peak while a prefix is encoded: its pixels in float32, and once more; then those that the autoencoder
    takes, cut into patches too, and a pass. num_frames: read for one prefix; None: those of the padded prefix
    alone."""
    frames = padded(spec.prefix_frames) if num_frames is None else num_frames
    values = frames * 3 * spec.height * spec.width
    element: int = vae.encoder.conv_in.weight.element_size()
    given = values * element * (2 if vae.config.patch_size else 1)
    peak = _counted_vae("encode", *_vae_key(vae, spec, fused), chunk_latents)
    return max(2 * 4 * values, given + peak + _unfolded(vae, device, spec, chunk_latents))


def _unfolded(vae: AutoencoderKLWan, device: torch.device, spec: VideoSpec, chunk_latents: int) -> int:
    """On a CPU convolutions of float32 unfold their input, 27 times as large."""
    config, element = vae.config, vae.encoder.conv_in.weight.element_size()
    if device.type != "cpu" or element != 4:
        return 0
    patch = config.patch_size or 1
    width = max(
        config.base_dim, (2 if config.is_residual else 1) * (config.decoder_base_dim or config.base_dim)
    )
    frames = TEMPORAL_STRIDE * chunk_latents + 2
    return int(27 * frames * (spec.height // patch) * (spec.width // patch) * width * element)


def _vae_key(vae: AutoencoderKLWan, spec: VideoSpec, fused: bool) -> tuple[str, torch.dtype, int, int, bool]:
    dtype = vae.encoder.conv_in.weight.dtype
    return frozen(vae.config), dtype, spec.height, spec.width, fused


@functools.lru_cache(maxsize=64)
def _counted_vae(
    way: str,
    config: str,
    dtype: torch.dtype,
    height: int,
    width: int,
    fused: bool,
    chunk_latents: int,
) -> int:
    """The first pass and two more, since each keeps frames for the next; without the pixels of an encoder."""
    vae: Any = without_values(AutoencoderKLWan, json.loads(config), dtype).eval()
    use_channels_last(vae)
    if fused:
        # paired columns are views, which without values are taken for copies
        use_fused_vae(vae, merge_upsampling=True, paired=frozenset())
    latent_frames = 1 + 2 * chunk_latents
    if way == "encode":
        frames = 1 + TEMPORAL_STRIDE * (latent_frames - 1)
        pixels = torch.empty(1, 3, frames, height, width, device="meta", dtype=dtype)
        patches = pixels.nbytes if vae.config.patch_size else 0
        return peak_bytes(lambda: encode_moments(vae, pixels, chunk_latents)) - patches
    stride = vae.config.scale_factor_spatial
    size = (1, vae.config.z_dim, latent_frames, height // stride, width // stride)
    latents = torch.empty(size, device="meta", dtype=dtype)
    return peak_bytes(lambda: _decode(vae, latents, chunk_latents))


def _decode(vae: Any, latents: Tensor, chunk_latents: int) -> None:
    for pixels in decode_in_chunks(vae, latents, chunk_latents):
        to_uint8(pixels)


def to_uint8(pixels: Tensor) -> Tensor:
    """[1, 3, T, H, W] in [-1, 1] -> uint8 [T, H, W, 3], ready to be copied to the host."""
    rounded = pixels[0].float().add(1.0).mul(127.5).round_().to(torch.uint8)
    return rounded.permute(1, 2, 3, 0).contiguous()
