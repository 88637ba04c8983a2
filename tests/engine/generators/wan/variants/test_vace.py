"""Wan2.1-VACE at tiny size: equality with the library's pipeline, our forward of its blocks, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_denoise as tiny
import torch
from diffusers import WanVACEPipeline, WanVACETransformer3DModel
from diffusers.pipelines.wan import pipeline_wan_vace
from tiny_wan import copy, edit
from tiny_wan_variants import (
    MODEL,
    PROMPT,
    asked,
    build_clip,
    build_vace,
    control,
    latents_of,
    quiet,
    take,
    without_ftfy,
)

from engine.denoise.sampler import PrefixTimestep
from engine.denoise.take import pad_first
from engine.errors import ConfigError, ModelError
from engine.generators.wan import generator as wan
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.lora_names import lora_aliases
from engine.generators.wan.memory import denoise_bytes
from engine.generators.wan.variants.vace import VARIANT
from engine.machine.outline import without_values
from engine.quant.linears import QuantizedLinear
from engine.settings.presets import PRESETS
from engine.types import Scenario, VideoSpec
from engine.video.prefix import read_prefix

torch.set_num_threads(1)
CLOSE = 2e-5
"""Largest difference of latents to the pipeline's, whose deviation is about 2."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_vace(tmp_path_factory.mktemp("models") / "vace")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return build_clip(tmp_path_factory.mktemp("clips"))


def load(folder: Path, **options: Any) -> wan.WanGenerator:
    return wan.load(folder, **{"device": "cpu", "dtype": "fp32"} | options)


def test_a_prefix_of_three_seconds_equals_the_pipeline(
    folder: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 frames, of which the first stands twice, and 8 to be made, grey and masked."""
    without_ftfy(monkeypatch, pipeline_wan_vace)
    generator = load(folder)
    latents, frames = latents_of(monkeypatch, generator.start(scenario, PROMPT))
    pipeline = quiet(WanVACEPipeline.from_pretrained(folder, local_files_only=True))
    prefix = pad_first(read_prefix(scenario.prefix, generator.spec))
    video = torch.full((57, 3, 32, 32), 0.5)
    video[:49] = torch.from_numpy(prefix).permute(0, 3, 1, 2) / 255
    mask = torch.ones(57, 3, 32, 32)
    mask[:49] = 0
    arguments = asked(4) | {"video": video[None], "mask": mask[None], "num_frames": 57, "guidance_scale": 3.0}
    expected = pipeline(**arguments).frames
    assert (latents - expected).abs().max() < CLOSE < 1e-4 * expected.std()
    assert frames.shape == (8, 32, 32, 3) and frames.std() > 1
    fast, _ = latents_of(monkeypatch, load(folder, denoise=PRESETS["fast"]).start(scenario, PROMPT))
    assert (fast - expected).abs().max() < CLOSE


@pytest.mark.parametrize("branch", ["cond", "both"])
@torch.inference_mode()
def test_our_forward_equals_the_library_s(branch: str) -> None:
    """Hints are added behind layers 0 and 2 of 4, and the stream of the branch is its own."""
    transformer, rows = control(), 2 if branch == "both" else 1
    latents = tiny.random(1, 4 + 72, 3, 4, 4)
    time = PrefixTimestep(value=700.0, prefix_frames=0, latent_frames=3, tokens_per_frame=4)
    text = tiny.text(rows)
    oracle = EagerDenoiser(transformer)
    expected = oracle(latents, time, oracle.prepare(text), branch=branch)
    fast = tiny.fast(transformer)
    found = fast(latents, time, fast.prepare(text), branch=branch)
    assert expected.shape == (rows, 4, 3, 4, 4)
    assert tiny.largest(found, expected) < 1e-5
    without = latents.clone()
    without[:, 4:] = 0
    assert tiny.largest(fast(without, time, fast.prepare(text), branch=branch), expected) > 1e-2


@pytest.mark.slow
def test_the_prefix_decides_the_take_in_every_preset(
    folder: Path, scenario: Scenario, tmp_path: Path
) -> None:
    other = build_clip(tmp_path, shade=60)
    for preset in ("exact", "fastest"):
        generator = load(folder, denoise=PRESETS[preset])
        first, second, again = (take(generator.start(s, PROMPT)) for s in (scenario, other, scenario))
        assert (first != second).any() and np.array_equal(first, again), preset


def test_eight_bit_layers_are_those_of_the_model_and_not_of_its_control(folder: Path) -> None:
    """Two inner blocks of four, with eight layers each."""
    generator = load(folder, denoise=replace(PRESETS["fast"], linear="fp8"))
    assert generator.notes["linear"].startswith("fp8: 16 layers")
    quantized = [
        name for name, one in generator.parts.transformer.named_modules() if isinstance(one, QuantizedLinear)
    ]
    assert quantized and all(name.startswith(("blocks.1.", "blocks.2.")) for name in quantized)


def test_the_plan_has_all_hints_of_the_library_in_it() -> None:
    """It makes those of every control block before its first block; the count has few blocks."""

    def planned(num_layers: int, vace_layers: list[int]) -> int:
        changes = {"num_layers": num_layers, "vace_layers": vace_layers}
        size = {"attention_head_dim": 128, "ffn_dim": 256, "in_channels": 4, "vace_in_channels": 72}
        made = without_values(WanVACETransformer3DModel, MODEL | size | changes, torch.bfloat16)
        parts: Any = SimpleNamespace(
            variant=VARIANT,
            transformer=made,
            vae=SimpleNamespace(config=SimpleNamespace(scale_factor_spatial=8, z_dim=4)),
            device=torch.device("cpu"),
            max_text_tokens=8,
            defaults=SimpleNamespace(prefix_attention="all"),
        )
        spec = VideoSpec(width=256, height=256, fps=16.0, prefix_frames=48, num_frames=80)
        return denoise_bytes(parts, spec, 1, PRESETS["exact"])

    assert planned(8, [0, 4, 6]) == pytest.approx(planned(3, [0, 1, 2]), rel=0.02)
    assert planned(8, [0, 4, 6]) > 1.1 * planned(8, [0])


def test_lora_names_of_the_control_branch() -> None:
    aliases = lora_aliases(control())
    assert aliases["vace_blocks.0.before_proj"] == "vace_blocks.0.proj_in"
    assert aliases["vace_blocks.1.after_proj"] == "vace_blocks.1.proj_out"
    assert aliases["vace_blocks.1.self_attn.o"] == "vace_blocks.1.attn1.to_out.0"
    assert aliases["vace_blocks.1.norm3"] == "vace_blocks.1.norm2"
    assert aliases["vace_blocks.1.modulation"] == "vace_blocks.1.scale_shift_table"


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "2 s": ("retake.json", {"prefix_frames": 32}, r"prefix_frames 32 \(2 s\).*needs 48 \(3 s\)\n"),
    "image": ("retake.json", {"prefix_frames": 1}, r"prefix_frames 1 \(0.0625 s\).*needs 48 \(3 s\)\n"),
    "12 fps": ("retake.json", {"fps": 12.0}, "fps 12; .*16, as Wan VACE was trained"),
    "width": ("retake.json", {"width": 40}, "width 40; .* a multiple of 16"),
    "frames": ("retake.json", {"num_frames": 9}, "num_frames 9; .* a multiple of 4"),
    "channels": ("transformer/config.json", {"vace_in_channels": 96}, r"channels \(100, 4\); .*\(76, 4\)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_unfit_folders_are_refused_before_weights_are_read(folder: Path, tmp_path: Path, name: str) -> None:
    spoiled = copy(folder, tmp_path)
    for path in spoiled.rglob("*.safetensors"):
        path.unlink()
    file, changes, message = REFUSALS[name]
    edit(spoiled, file, **changes)
    with pytest.raises((ModelError, ConfigError), match=message):
        load(spoiled, with_weights=False)
