"""Decoding of 81 frames by a random-weight Wan2.1 autoencoder: the library's way and ours.

Every way is compared with the library's decode in fp32 before it is timed: in bf16 its error is at most twice
that of the library.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
from diffusers import AutoencoderKLWan
from torch import Tensor

from bench.perf.benchmark_tools import DEVICE, HAS_GPU, Benchmark, measure, normal, sizes
from bench.perf.vae.models import SIZES, build, exact_pixels
from engine.autoencoder.vae import decode_pixels, use_channels_last
from engine.autoencoder.vae_fused import use_fused_vae
from kernels import reference

WAYS: dict[str, tuple[Callable[[AutoencoderKLWan], int] | None, int | None]] = {
    "library": (None, None),
    "library, channels last": (use_channels_last, None),
    "chunks of 4": (None, 4),
    "chunks of 4, channels last": (use_channels_last, 4),
    "fused decoder, chunks of 1": (use_fused_vae, 1),
    "fused decoder, chunks of 4": (use_fused_vae, 4),
}
"""What is done to the module once, and the latent frames of a chunk; None: the library's own decode."""
MAX_ERROR_FACTOR = 2.0


def decode(vae: AutoencoderKLWan, latents: Tensor, chunk: int | None) -> Tensor:
    if chunk is not None:
        return decode_pixels(vae, latents, chunk)
    pixels: Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


@cache
def subject(size: str) -> tuple[AutoencoderKLWan, Tensor, Tensor, float]:
    """(module, latents, exact pixels in main memory, error of the library's own decode)"""
    vae = build(size, DEVICE)
    latents = normal(1, vae.config.z_dim, *SIZES[size].latents, seed=0)
    exact = exact_pixels(vae, latents)
    return vae, latents, exact.cpu(), reference.compare(decode(vae, latents, None), exact).relative


@sizes("480p", "draft")
@pytest.mark.parametrize("way", WAYS)
def test_vae_decode(benchmark: Benchmark, way: str, size: str) -> None:
    prepare, chunk = WAYS[way]
    vae, latents, exact, plain = subject(size)
    vae = copy.deepcopy(vae)
    if prepare is not None:
        prepare(vae)
    errors = reference.compare(decode(vae, latents, chunk), exact.to(DEVICE))
    assert errors.relative <= MAX_ERROR_FACTOR * plain, (errors, plain)
    num_frames, shape = exact.shape[2], tuple(exact.shape)
    benchmark.extra_info["num_frames"] = num_frames
    measure(
        benchmark,
        lambda: decode(vae, latents, chunk),
        group=f"vae decode {shape} {DEVICE.type}",
        errors=errors,
        repeats=3 if HAS_GPU else 2,
        warmup=1,
    )
    benchmark.extra_info["frames_per_s"] = 1e3 * num_frames / benchmark.extra_info["device_ms"]["median"]
