"""Chunks of the autoencoder and their memory: what is planned against what is allocated."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from tiny_wan import build_folder

from engine.generators.wan import generator as wan
from engine.generators.wan.memory import CHUNK_BYTES, MAX_CHUNK_LATENTS, chunk_bytes, chunk_size, latent_shape
from engine.generators.wan.vae import decode_pixels, encode_moments
from engine.generators.wan.vae_fused import use_fused_vae
from engine.types import VideoSpec

LAYOUTS: dict[str, dict[str, Any]] = {
    "Wan2.1": {},
    "Wan2.2-5B": {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 16,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    },
}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> wan.WanGenerator:
    return wan.load(build_folder(tmp_path_factory.mktemp("models") / "wan"), device="cpu", dtype="fp32")


def test_chunks_are_as_large_as_memory_allows(generator: wan.WanGenerator) -> None:
    parts, large = generator.parts, dataclasses.replace(generator.spec, width=4096, height=2176)
    assert generator.chunk_latents(generator.spec) == MAX_CHUNK_LATENTS
    assert chunk_size(parts, large, most_bytes=0, fused=False) == 1
    for latents in (2, 3, 4):
        needed = chunk_bytes(parts, large, latents, fused=False)
        assert chunk_size(parts, large, most_bytes=needed, fused=False) == latents
        assert chunk_size(parts, large, most_bytes=needed - 1, fused=False) == latents - 1


def test_a_decode_step_takes_no_more_than_a_denoise_step_where_that_is_large(
    generator: wan.WanGenerator,
) -> None:
    """So that larger chunks cost nothing in the plan."""
    spec = dataclasses.replace(generator.spec, width=1024, height=1024, num_frames=2000)
    most = generator._denoise_bytes(spec)
    size = generator.chunk_latents(spec)
    assert most > CHUNK_BYTES and size > 1
    assert chunk_bytes(generator.parts, spec, size, fused=False) <= most
    values = math.prod(latent_shape(generator.parts, spec))
    history = 4 * (generator.schedule.num_steps + 3) * values
    assert generator.footprint(spec).activation_bytes == most + history


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fused", [False, True])
@torch.inference_mode()
def test_published_sizes_stay_below_the_plan(layout: str, fused: bool) -> None:
    """Random weights of the published autoencoders, both directions, in chunks of one and of four."""
    vae = AutoencoderKLWan(**LAYOUTS[layout]).to("cuda", torch.bfloat16).eval().requires_grad_(False)
    if fused:
        use_fused_vae(vae)
    spec = VideoSpec(width=416, height=256, fps=16.0, prefix_frames=17, num_frames=32)
    parts: Any = SimpleNamespace(vae=vae, device=torch.device("cuda"))
    stride = vae.config.scale_factor_spatial
    latents = torch.randn(1, vae.config.z_dim, 13, 256 // stride, 416 // stride, device="cuda").bfloat16()
    pixels = torch.rand(1, 3, 17, 256, 416, device="cuda").bfloat16()
    for size in (1, 4):
        estimate = chunk_bytes(parts, spec, size, fused=fused)
        for way, given in ((decode_pixels, latents), (encode_moments, pixels)):
            way(vae, given, size)  # workspaces of the convolutions
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            result = way(vae, given, size)
            peak = torch.cuda.max_memory_allocated() - before - result.nbytes
            assert peak <= estimate, f"{way.__name__} of {size}: peak {peak}, estimate {estimate}"
            if way is decode_pixels:
                assert estimate <= 4 * peak, f"{size}: peak {peak}, estimate {estimate}"
            del result
