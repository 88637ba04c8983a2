"""Wan2.2-I2V-A14B at tiny size: equality with the library's pipeline, two experts, prefixes, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_wan import LATENT_CHANNELS, copy, edit
from tiny_wan_variants import (
    PROMPT,
    asked,
    build_clip,
    build_i2v,
    latents_of,
    quiet,
    take,
    without_ftfy,
)

from engine.autoencoder.vae import encode_mode
from engine.denoise.lora import read_loras
from engine.errors import ConfigError, ModelError
from engine.generators.wan import generator as wan
from engine.generators.wan.conditioning import PrefixChannels
from engine.settings.presets import PRESETS
from engine.types import Scenario
from engine.video.prefix import read_prefix

torch.set_num_threads(1)
CLOSE = 2e-5
"""Largest difference of latents to the pipeline's, whose deviation is about 2; 6e-6 was seen."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_i2v(tmp_path_factory.mktemp("models") / "i2v")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return build_clip(tmp_path_factory.mktemp("clips"))


def load(folder: Path, **options: Any) -> wan.WanGenerator:
    return wan.load(folder, **{"device": "cpu", "dtype": "fp32"} | options)


@pytest.fixture(scope="module")
def generator(folder: Path) -> wan.WanGenerator:
    return load(folder)


# --- against the library ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("experts", "scale_2"), [(1, None), (2, 2.0)])
def test_one_image_equals_the_pipeline(
    tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch, experts: int, scale_2: float | None
) -> None:
    without_ftfy(monkeypatch, pipeline_wan_i2v)
    told = {} if scale_2 is None else {"guidance_scale_2": scale_2}
    folder = build_i2v(tmp_path / "i2v", experts=experts, prefix_frames=1, **told)
    generator = load(folder)
    latents, frames = latents_of(monkeypatch, generator.start(scenario, PROMPT))
    pipeline = quiet(WanImageToVideoPipeline.from_pretrained(folder, local_files_only=True))
    image = Image.fromarray(read_prefix(scenario.prefix, generator.spec)[0])
    arguments = asked(4) | told | {"image": image, "num_frames": 9, "guidance_scale": 3.0}
    expected = pipeline(**arguments).frames
    assert (latents - expected).abs().max() < CLOSE < 1e-4 * expected.std()
    assert frames.shape == (8, 32, 32, 3) and frames.std() > 1
    fast, _ = latents_of(monkeypatch, load(folder, denoise=PRESETS["fast"]).start(scenario, PROMPT))
    assert (fast - expected).abs().max() < CLOSE


def test_channels_of_a_prefix_say_which_frames_are_given(generator: wan.WanGenerator) -> None:
    """The mask is that of the pipeline, written down frame by frame."""
    vae, spec = generator.parts.vae, generator.spec
    prefix = torch.rand(1, 3, 49, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        found = PrefixChannels().encode(vae, prefix, spec, 4)
        whole = torch.cat([prefix, torch.zeros(1, 3, 8, 32, 32)], dim=2)
        latents = vae.encode(whole).latent_dist.mode()
    given = torch.cat([torch.ones(49), torch.zeros(8)])
    by_latent = torch.cat([given[:1].repeat(4), given[1:]]).view(15, 4).T
    assert torch.equal(found[:, :4], by_latent[None, :, :, None, None].expand_as(found[:, :4]))
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (
            vae.config.latents_mean,
            vae.config.latents_std,
        )
    )
    assert (found[:, 4:] - (latents - mean) / std).abs().max() < 1e-4
    assert (found[:, 4:, :13] - encode_mode(vae, prefix)).abs().max() < 1e-4, "what comes later is not seen"


@pytest.mark.slow
def test_a_prefix_of_three_seconds_decides_the_take(generator: wan.WanGenerator, tmp_path: Path) -> None:
    takes = [take(generator.start(build_clip(tmp_path / str(s), shade=s), PROMPT)) for s in (0, 60)]
    assert takes[0].shape == (8, 32, 32, 3) and (takes[0] != takes[1]).any()


# --- two experts --------------------------------------------------------------------------------------------


def test_experts_that_take_turns_make_the_same_takes_in_any_order(
    folder: Path, generator: wan.WanGenerator, scenario: Scenario
) -> None:
    """Interleaved jobs are at different experts at a time."""
    prompts = [dataclasses.replace(PROMPT, seed=seed) for seed in (1, 2)]
    expected = [take(generator.start(scenario, prompt)) for prompt in prompts]
    in_turn = load(folder, streamed=["experts"])
    first, second = (in_turn.start(scenario, prompt) for prompt in prompts)
    for _ in range(3):
        first.launch()
    while first.steps_left or second.steps_left:
        for job in (second, first):
            if job.steps_left:
                job.launch()
    assert all(map(np.array_equal, expected, (first.result().frames, second.result().frames)))
    assert in_turn.notes["streamed"] == "experts"


def test_a_preset_runs_alike_with_both_ways_of_residence(folder: Path, scenario: Scenario) -> None:
    preset = PRESETS["fastest"]
    both, in_turn = (load(folder, denoise=preset, streamed=s) for s in ((), ("experts",)))
    assert np.array_equal(take(both.start(scenario, PROMPT)), take(in_turn.start(scenario, PROMPT)))


def test_the_plan_knows_both_experts(folder: Path, generator: wan.WanGenerator) -> None:
    spec, outline = generator.spec, load(folder, with_weights=False)
    assert outline.footprint(spec) == generator.footprint(spec)
    held = outline.footprint(spec).held
    assert held["transformer"] == held["second transformer"] > 0
    in_turn = load(folder, with_weights=False, streamed=["experts"]).footprint(spec)
    assert outline.footprint(spec).held_bytes - in_turn.held_bytes == held["second transformer"]
    assert load(folder, streamed=["experts"]).footprint(spec) == in_turn
    streamed = load(folder, with_weights=False, streamed=["blocks"]).footprint(spec)
    assert streamed.held_bytes < in_turn.held_bytes + held["transformer"]


def test_footprint_has_the_channels_and_the_whole_length_in_it(folder: Path, tmp_path: Path) -> None:
    """36 channels, and grey frames behind the prefix go through the encoder."""
    spec = load(folder, with_weights=False).spec
    image = copy(folder, tmp_path)
    edit(image, "retake.json", prefix_frames=1)
    single = load(image, with_weights=False)
    frames = 3 * 32 * 32 * 4
    working = single.footprint(single.spec).working
    assert working["prefix and text"] >= 9 * frames, "not of one frame"
    assert load(folder, with_weights=False).footprint(spec).working["denoise step"] > working["denoise step"]


def lora(path: Path, value: float) -> Path:
    target, down, up = "transformer.blocks.0.attn1.to_q", torch.full((1, 32), value), torch.ones(32, 1)
    save_file({f"{target}.lora_A.weight": down, f"{target}.lora_B.weight": up}, path)
    return path


def test_a_lora_is_merged_into_the_experts_it_names(folder: Path, tmp_path: Path) -> None:
    file = lora(tmp_path / "noisy.safetensors", 0.5)
    name = "blocks.0.attn1.to_q.weight"
    before = [one.get_parameter(name).clone() for one in load(folder).parts.transformers]
    for entry, changed in (("high", (True, False)), ("low", (False, True)), ("both", (True, True))):
        after = load(folder, loras=read_loras([f"{entry}={file}:2"])).parts.transformers
        for old, one, is_changed in zip(before, after, changed, strict=True):
            assert torch.allclose(one.get_parameter(name) - old, torch.full((32, 32), float(is_changed)))


def test_a_step_distillation_brings_its_steps_and_scale_for_both_experts(
    folder: Path, tmp_path: Path
) -> None:
    guided = copy(folder, tmp_path)
    edit(guided, *SIDECAR, guidance_scale_2=2.5)
    file = lora(tmp_path / "noisy_2steps.safetensors", 0.5)
    grid = {"timesteps": [1000, 500], "timesteps_are": "after shift"}
    (tmp_path / "noisy_2steps.retake.json").write_text(json.dumps(grid))
    loras = read_loras([f"high={file}"])
    assert loras[0].expert == "high" and loras[0].grid is not None
    made = load(guided, loras=loras, num_inference_steps=None, with_weights=False)
    assert made.schedule.timesteps == (1000.0, 500.0) and made.guidance_scales == (1.0, 1.0)


def test_a_lora_that_names_no_expert_or_one_too_many_is_refused(folder: Path, tmp_path: Path) -> None:
    file = lora(tmp_path / "noisy.safetensors", 0.5)
    with pytest.raises(
        ConfigError, match=r"noisy.safetensors does not say .*\n.*high=FILE or low=FILE or both"
    ):
        load(folder, loras=read_loras([f"{file}:2"]), with_weights=False)
    single = build_i2v(tmp_path / "single", experts=1)
    with pytest.raises(ConfigError, match="expert 'high', and this model has one transformer"):
        load(single, loras=read_loras([f"high={file}"]), with_weights=False)
    with pytest.raises(ConfigError, match=r"memory.experts is streamed, and .* has one transformer"):
        load(single, streamed=["experts"], with_weights=False)
    with pytest.raises(ConfigError, match="both streamed"):
        load(folder, streamed=["experts", "blocks"], with_weights=False)
    with pytest.raises(ConfigError, match="of which no denoiser is exported"):
        _ = load(folder, with_weights=False).forward_sizes


# --- refusals, before a weight is read ----------------------------------------------------------------------


SIDECAR, INDEX, BOTH = ("retake.json",), ("model_index.json",), ("transformer", "transformer_2")
REFUSALS: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "2 s": (SIDECAR, {"prefix_frames": 32}, r"prefix_frames 32 \(2 s\).*48 \(3 s\), or 1"),
    "12 fps": (SIDECAR, {"fps": 12.0}, "fps 12; .*16, as Wan I2V was trained"),
    "odd width": (SIDECAR, {"width": 40}, "width 40; .* a multiple of 16"),
    "odd height": (SIDECAR, {"height": 33}, "height 33; .* a multiple of 16"),
    "frames": (SIDECAR, {"num_frames": 79}, "num_frames 79; .* a multiple of 4"),
    "own": (SIDECAR, {"prefix_attention": "own"}, "prefix_attention 'own'.*no clean prefix"),
    "one guided": (SIDECAR, {"guidance_scale_2": 1.0}, "switch guidance off for one alone"),
    "boundary": (INDEX, {"boundary_ratio": 1.5}, "boundary_ratio 1.5; .*between 0 and 1"),
    "no boundary": (INDEX, {"boundary_ratio": None}, "transformer_2 without boundary"),
    "text alone": (INDEX, {"_class_name": "WanPipeline"}, "which continues no prefix"),
    "channels": (BOTH, {"in_channels": 16}, r"channels \(16, 4\); .*\(12, 4\)"),
    "image encoder": (BOTH, {"image_dim": 8}, "an image encoder beside the text; .* none"),
    "other second": (BOTH[1:], {"ffn_dim": 64}, "transformer_2 has ffn_dim 64; .* configuration of transf"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_unfit_folders_are_refused_before_weights_are_read(folder: Path, tmp_path: Path, name: str) -> None:
    spoiled = copy(folder, tmp_path)
    for path in spoiled.rglob("*.safetensors"):
        path.unlink()
    files, changes, message = REFUSALS[name]
    for file in files:
        edit(spoiled, file if file.endswith(".json") else f"{file}/config.json", **changes)
    with pytest.raises((ModelError, ConfigError), match=message):
        load(spoiled, with_weights=False)


def test_what_is_kept_of_a_clean_prefix_needs_one_and_a_transformer_that_stays(
    folder: Path, tmp_path: Path
) -> None:
    kept = PRESETS["fast"]
    assert kept.prefix_kept > 0
    without = load(folder, with_weights=False, denoise=kept)
    assert without.settings.prefix_kept == 0 and without.shape.prefix_tokens == 0
    per_token = copy(folder, tmp_path)
    edit(per_token, *INDEX, expand_timesteps=True)
    for name in BOTH:
        edit(per_token, f"{name}/config.json", in_channels=LATENT_CHANNELS)
        (per_token / name / "diffusion_pytorch_model.safetensors").unlink()  # of other channels
    outline = load(per_token, with_weights=False, denoise=kept)
    assert outline.shape.prefix_tokens * 21 == outline.shape.tokens * 19 > 0
    assert outline.settings.prefix_kept == kept.prefix_kept
    streamed = load(per_token, with_weights=False, denoise=kept, streamed=["experts"])
    assert streamed.settings.prefix_kept == 0


def test_no_step_is_skipped_by_what_was_measured_on_one_transformer(folder: Path) -> None:
    by_curve = dataclasses.replace(PRESETS["fastest"], step_cache_by="magnitude")
    with pytest.raises(ConfigError, match="step_cache_by 'magnitude' needs what was measured"):
        load(folder, with_weights=False, denoise=by_curve)


def test_a_second_transformer_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    spoiled = copy(folder, tmp_path)
    (spoiled / "transformer_2" / "config.json").unlink()
    with pytest.raises(ModelError, match="lacks the component transformer_2"):
        load(spoiled, with_weights=False)


def test_missing_and_surplus_tensors_are_both_listed(folder: Path, tmp_path: Path) -> None:
    spoiled = copy(folder, tmp_path)
    path = spoiled / "transformer_2" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["blocks.9.extra"] = tensors.pop("blocks.1.attn1.to_q.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    listed = r"transformer_2 has 1 missing_keys .*to_q.*; 1 unexpected_keys .*blocks.9"
    with pytest.raises(ModelError, match=listed):
        load(spoiled)
