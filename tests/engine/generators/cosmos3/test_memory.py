"""What Cosmos3 of the published sizes takes of a GPU: counted without a weight, against what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_cosmos3_folder as tiny
import torch
from diffusers import AutoencoderKLWan, Cosmos3OmniTransformer
from one_clip import write_clip

from bench.perf.end_to_end.sizes import WAN22_VAE
from bench.perf.published import COSMOS3_SIZES
from engine.autoencoder.memory import latent_shape
from engine.build.prepare import Prepared, prepare
from engine.errors import DoesNotFit
from engine.generators.cosmos3.memory import denoise_bytes
from engine.generators.cosmos3.towers import text_tower, unique_bytes
from engine.machine.cards import find
from engine.machine.memory import GIB
from engine.machine.outline import without_values
from engine.settings.config import load_config
from engine.settings.presets import PRESETS, DenoiseSettings
from engine.types import VideoSpec

RESULTS = Path(__file__).parents[4] / "bench" / "results"
SMALL = {"width": 832, "height": 480}
EVICTED = {"critic.quantization": "nf4", "memory.text_encoder": "streamed"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips"))


def planned(
    clips: Path, place: Path, architecture: str, card: str, sidecar: dict[str, Any], **settings: Any
) -> Prepared:
    folder = tiny.outline_folder(place / architecture, architecture, **sidecar)
    given = {"dataset": str(clips), "out": str(place / "run"), "model": str(folder), "dtype": "bf16"}
    return prepare(load_config(None, given | settings), card=find(card))


@pytest.mark.parametrize(
    ("architecture", "text", "video"), [("edge", 1.95, 1.41), ("nano", 8.19, 6.98), ("super", 32.76, 31.25)]
)
def test_a_published_model_has_the_published_parameters(architecture: str, text: float, video: float) -> None:
    """Of billions, as NVIDIA counts them: 4B, 16B and 64B in all."""
    with torch.device("meta"):
        made = Cosmos3OmniTransformer(
            **dict(COSMOS3_SIZES[architecture]) | {"sound_gen": False, "action_gen": False}
        )
    in_text = unique_bytes(text_tower(made)) / 4
    assert in_text / 1e9 == pytest.approx(text, abs=0.01)
    assert (unique_bytes([made]) / 4 - in_text) / 1e9 == pytest.approx(video, abs=0.02)


def test_a_denoise_step_is_counted_as_it_was_measured() -> None:
    """Of Nano on an H200, 19,110 tokens, compiled; the library ran both towers and kept more."""
    document = json.loads((RESULTS / "denoiser_h200_cosmos3.json").read_text())
    peaks = {one["name"]: one["activation_peak_bytes"] for one in document["subjects"][0]["variants"]}
    parts: Any = SimpleNamespace(
        transformer=without_values(Cosmos3OmniTransformer, {}, torch.bfloat16),
        vae=without_values(AutoencoderKLWan, WAN22_VAE, torch.bfloat16),
        device=torch.device("cuda"),
        max_text_tokens=300,
        patch_px=2,
    )
    spec = VideoSpec(width=832, height=480, fps=24.0, prefix_frames=72, num_frames=120)
    shape = latent_shape(parts.vae, spec)
    for settings, name in (
        (DenoiseSettings(forward="fast", compile="on"), "ours bf16"),
        (DenoiseSettings(forward="fast", linear="fp8", compile="on"), "ours FP8 linear"),
    ):
        assert denoise_bytes(parts, shape, spec, settings) == pytest.approx(peaks[name], rel=0.01)
    exact = denoise_bytes(parts, shape, spec, PRESETS["exact"])
    assert 0.6 < exact / peaks["diffusers eager"] < 1


def test_nano_fits_48_gib_and_with_evicted_towers_24(clips: Path, tmp_path: Path) -> None:
    """Whole at 480 lines on the first, where the critic reads by the one text tower; on the second its text
    tower lies on the host, beside a critic of 4 bits, and both cards hold the 8-bit generation tower."""
    fast = {"denoise.preset": "fast"}
    whole = planned(clips, tmp_path, "nano", "L40S", SMALL, **fast)
    assert whole.memory.required_bytes < 47.25 * GIB and not whole.changed
    evicted = planned(clips, tmp_path / "less", "nano", "RTX 4090", SMALL, **fast, **EVICTED)
    assert evicted.memory.required_bytes < 23.25 * GIB
    for prepared, text_gib in ((whole, 15.26), (evicted, 0.0)):
        held = prepared.memory.parts["generator"].held
        assert held["generation tower"] / GIB == pytest.approx(6.90, abs=0.01)  # 13.0 in bf16
        assert held["text tower"] / GIB == pytest.approx(text_gib, abs=0.01)


@pytest.mark.slow
def test_super_fits_80_gib_in_8_bits(clips: Path, tmp_path: Path) -> None:
    """At 720 lines, found by itself: fewer replies, and the critic's own weights beside an evicted tower."""
    prepared = planned(clips, tmp_path, "super", "H100", {}, **{"denoise.preset": "fast"})
    assert prepared.config.critic.quantization == "nf4" and prepared.memory.required_bytes < 79.25 * GIB
    assert prepared.memory.parts["generator"].held["generation tower"] < 31 * GIB


@pytest.mark.slow
def test_what_does_not_fit_is_refused_and_the_cheapest_change_named(clips: Path, tmp_path: Path) -> None:
    small = {"memory.fit": "refuse", "memory.vram": "40GiB"}
    with pytest.raises(DoesNotFit, match=r"schedule\.replies = [124] saves") as caught:
        planned(clips, tmp_path, "nano", "L40S", SMALL, **small)
    assert "the autoencoder takes" in str(caught.value) and "nf4" not in str(caught.value)
    with pytest.raises(DoesNotFit, match="generation tower") as caught:
        planned(clips, tmp_path / "less", "super", "RTX 4090", SMALL)
    assert "the least that these models run in" in str(caught.value)
