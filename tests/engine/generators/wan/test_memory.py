"""Chunks of the autoencoder and their memory: what is planned against what is allocated."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tiny_wan import build_folder

from bench.perf.end_to_end.sizes import WAN22_VAE
from engine.autoencoder import memory as autoencoder_memory
from engine.autoencoder.memory import MAX_CHUNK_LATENTS, chunk_bytes, chunk_size, encode_bytes
from engine.autoencoder.vae import decode_pixels, encode_moments
from engine.autoencoder.vae_fused import use_fused_vae
from engine.denoise.assemble import quantize_outline
from engine.generators.wan import generator as wan
from engine.generators.wan import memory
from engine.generators.wan.family import WanFamily
from engine.generators.wan.memory import denoise_bytes
from engine.generators.wan.variants.ti2v import VARIANT
from engine.machine.outline import bytes_of, without_values
from engine.settings.presets import PRESETS, DenoiseSettings
from engine.types import VideoSpec

CPU = torch.device("cpu")
LAYOUTS: dict[str, Mapping[str, Any]] = {"Wan2.1": {}, "Wan2.2-5B": WAN22_VAE}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> wan.WanGenerator:
    return wan.load(build_folder(tmp_path_factory.mktemp("models") / "wan"), device="cpu", dtype="fp32")


def test_chunks_are_as_large_as_memory_allows(generator: wan.WanGenerator) -> None:
    parts, large = generator.parts, dataclasses.replace(generator.spec, width=4096, height=2176)
    assert generator.chunk_latents(generator.spec) == MAX_CHUNK_LATENTS
    assert chunk_size(parts.vae, parts.device, large, most_bytes=0, fused=False) == 1
    for latents in (2, 3, 4):
        needed = chunk_bytes(parts.vae, parts.device, large, latents, fused=False)
        assert chunk_size(parts.vae, parts.device, large, most_bytes=needed, fused=False) == latents
        assert chunk_size(parts.vae, parts.device, large, most_bytes=needed - 1, fused=False) == latents - 1


def test_a_decode_step_takes_no_more_than_a_denoise_step_on_a_cpu(
    generator: wan.WanGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that larger chunks cost nothing in its plan; a GPU takes the largest, and fewer if it must."""
    needed = [chunk_bytes(generator.parts.vae, CPU, generator.spec, size, fused=False) for size in (1, 2, 3)]
    for size, most in enumerate(needed, start=1):
        monkeypatch.setattr(autoencoder_memory, "CPU_CHUNK_BYTES", most)
        assert generator.chunk_latents(generator.spec) == size
    parts = dataclasses.replace(generator.parts, device=torch.device("cuda"))
    outline = wan.WanGenerator(parts, generator.denoisers, 3, 3.0)
    assert outline.chunk_latents(generator.spec) == MAX_CHUNK_LATENTS
    assert outline.relieve() is not None and outline.chunk_latents(generator.spec) == 1
    assert outline.relieve() is None, "nothing is left to give up"


RESULTS = Path(__file__).parents[4] / "bench" / "results"
TRANSFORMERS: dict[str, tuple[dict[str, Any], VideoSpec]] = {
    "denoiser_h200_5b": (
        {
            "num_attention_heads": 24,
            "in_channels": 48,
            "out_channels": 48,
            "ffn_dim": 14336,
            "num_layers": 30,
        },
        VideoSpec(width=1280, height=704, fps=24.0, prefix_frames=1, num_frames=120),
    ),
    "denoiser_h200": (
        {"num_attention_heads": 12, "in_channels": 16, "out_channels": 16, "ffn_dim": 8960, "num_layers": 30},
        VideoSpec(width=832, height=480, fps=16.0, prefix_frames=1, num_frames=80),
    ),
    "denoiser_h200_14b": (
        {
            "num_attention_heads": 40,
            "in_channels": 16,
            "out_channels": 16,
            "ffn_dim": 13824,
            "num_layers": 40,
        },
        VideoSpec(width=832, height=480, fps=16.0, prefix_frames=1, num_frames=80),
    ),
}
COMPILED = DenoiseSettings(forward="fast", linear="fp8", compile="on")


def published(name: str) -> Any:
    """The parts of a published model without values, on a GPU that is not here."""
    layout, _ = TRANSFORMERS[name]
    transformer = without_values(
        WanTransformer3DModel,
        {"text_dim": 4096, "freq_dim": 256, "cross_attn_norm": True, **layout},
        torch.bfloat16,
    )
    vae = without_values(
        AutoencoderKLWan, LAYOUTS["Wan2.2-5B" if layout["in_channels"] == 48 else "Wan2.1"], torch.bfloat16
    )
    return SimpleNamespace(
        variant=VARIANT,
        transformer=transformer,
        vae=vae,
        device=torch.device("cuda"),
        max_text_tokens=512,
        defaults=SimpleNamespace(prefix_attention="all"),
    )


def measured(name: str, variant: str) -> int:
    document = json.loads((RESULTS / f"{name}.json").read_text())
    found = {one["name"]: one for one in document["subjects"][0]["variants"]}
    return int(found[variant]["activation_peak_bytes"])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_denoise_step_is_counted_as_it_was_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the library, and of the compiled 8-bit forward, on an H200. The models of 1.3B and 14B were measured
    with one timestep for all tokens, the 5B one with one for each, as all of ours run."""
    spec, parts = TRANSFORMERS[name][1], published(name)
    if name != "denoiser_h200_5b":
        scalar = lambda time, device: torch.empty(1, device=device)  # noqa: E731
        monkeypatch.setattr(memory.PrefixTimestep, "per_token", scalar)
        monkeypatch.setattr(
            torch.Tensor, "expand", lambda x, *sizes: x if x.shape == (1,) else EXPAND(x, *sizes)
        )
    memory._counted_forward.cache_clear()
    exact = denoise_bytes(parts, spec, 1, PRESETS["exact"])
    memory._counted_forward.cache_clear()
    assert exact == pytest.approx(measured(name, "diffusers eager"), rel=0.02)
    quantize_outline(WanFamily(parts.transformer), COMPILED, parts.device, (9, 0), None)
    fast = denoise_bytes(parts, spec, 1, COMPILED)
    assert fast == pytest.approx(measured(name, "ours FP8 linear, FP8 attention"), rel=0.02)


EXPAND = torch.Tensor.expand


def test_a_pass_of_the_autoencoder_is_counted_as_it_was_measured() -> None:
    """Decoding 81 frames of 480x832 on an H200; the measured peak has the weights in it."""
    document = json.loads((RESULTS / "vae_h200.json").read_text())
    peaks = {row["name"]: row.get("peak_allocated_bytes") for row in document["rows"]}
    parts, spec = published("denoiser_h200"), TRANSFORMERS["denoiser_h200"][1]
    weights = bytes_of(parts.vae)
    for row, chunk, fused in (
        ("chunks of 4, channels last", 4, False),
        ("fused, merged and paired, chunks of 4", 4, True),
    ):
        planned = weights + autoencoder_memory._counted_vae(
            "decode", *autoencoder_memory._vae_key(parts.vae, spec, fused), chunk
        )
        assert planned == pytest.approx(peaks[row], rel=0.05), row


def test_presets_differ_in_weights_as_in_steps() -> None:
    """8-bit layers, as of the capability that is planned for."""
    parts, spec = published("denoiser_h200_5b"), TRANSFORMERS["denoiser_h200_5b"][1]
    whole = bytes_of(parts.transformer)
    step = denoise_bytes(parts, spec, 2, PRESETS["exact"])
    quantize_outline(WanFamily(parts.transformer), PRESETS["fast"], parts.device, (7, 5), None)
    assert bytes_of(parts.transformer) == whole, "nothing 8-bit is fast there"
    quantize_outline(WanFamily(parts.transformer), PRESETS["fast"], parts.device, (8, 9), None)
    saved = json.loads((RESULTS / "denoiser_h200_5b.json").read_text())["subjects"][0]["variants"][4]
    before, after = (int(word) for word in re.findall(r"[0-9]+", saved["choices"]["linear"])[2:4])
    assert whole - bytes_of(parts.transformer) == pytest.approx((before - after) << 20, rel=0.01)
    assert denoise_bytes(parts, spec, 2, PRESETS["fast"]) < 0.5 * step


def test_encoding_a_prefix_grows_with_its_frames_and_decoding_does_not(generator: wan.WanGenerator) -> None:
    """Frames of a take go to the host pass by pass."""
    parts, spec = generator.parts, generator.spec
    longer = dataclasses.replace(spec, prefix_frames=600, num_frames=2000)
    assert encode_bytes(parts.vae, parts.device, longer, 4, fused=False) > encode_bytes(
        parts.vae, parts.device, spec, 4, fused=False
    )
    assert chunk_bytes(parts.vae, parts.device, longer, 4, fused=False) == chunk_bytes(
        parts.vae, parts.device, spec, 4, fused=False
    )


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
        estimate = chunk_bytes(parts.vae, parts.device, spec, size, fused=fused)
        for way, given in ((decode_pixels, latents), (encode_moments, pixels)):
            way(vae, given, size)  # workspaces of the convolutions
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            result = way(vae, given, size)
            peak = torch.cuda.max_memory_allocated() - before - result.nbytes
            told = f"{way.__name__} of {size}: peak {peak}, estimate {estimate}"
            assert peak <= 1.1 * estimate + (64 << 20), told  # workspaces of convolutions
            if way is decode_pixels:
                assert estimate <= 1.25 * peak, told
            del result
