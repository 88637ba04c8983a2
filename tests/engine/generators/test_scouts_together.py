"""Scouts that share each forward: each is the scout that it would be alone, and its take does not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_cosmos3_folder
import tiny_wan
import tiny_wan_variants
import torch
from torch import Tensor

from engine.api.takes import finish
from engine.errors import ConfigError
from engine.generators.cosmos3 import generator as cosmos3
from engine.generators.wan import generator as wan
from engine.settings.presets import DenoiseSettings
from engine.types import Prompt, Scenario, ScoutForm

torch.set_num_threads(1)

ALONE = Prompt(text="a red ball rolls to the right", negative="still", seed=7, revision=0)
PROMPTS = [ALONE, replace(ALONE, seed=8), replace(ALONE, text="a red ball bounces off a wall", revision=1)]
FORM = ScoutForm(steps=3, whole=True, together=3)
FORMS = {"whole": FORM, "first": replace(FORM, whole=False)}
PART = {"whole": {"step_cache": 0.4}, "first": {"step_cache": 0.4, "cfg_gate": 0.3}}
"""What is remembered between the steps of a scout, in each form."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan.build_folder(tmp_path_factory.mktemp("models") / "wan")


def load(folder: Path, steps: int | None = 6, states: bool = False, **settings: Any) -> Any:
    denoise = DenoiseSettings(**settings)
    return wan.load(
        folder, device="cpu", dtype="fp32", num_inference_steps=steps, denoise=denoise, states=states
    )


def latents_of(job: Any) -> tuple[Tensor, Any]:
    """What is decoded, [N, Z, F, h, w], and the result."""
    found: list[Tensor] = []
    inner = getattr(job, "_job", job)
    decode = inner._pixels

    def noting(latents: Tensor) -> Any:
        found.append(latents.float())
        return decode(latents)

    inner._pixels = noting
    result = finish(job)
    return torch.cat(found), result


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("forward", ["library", "fast"])
def test_each_is_as_alone(folder: Path, scenario: Scenario, forward: str, form: str, batched: bool) -> None:
    """On one thread of a CPU bit for bit, as it happens; elsewhere kernels differ by the size of a batch, and
    what is asked is that a row knows nothing of the others: rounding of float32 alone."""
    generator, asked = load(folder, forward=forward, compile="off", **PART[form]), FORMS[form]
    generator.batched = batched
    job = generator.scouts(scenario, PROMPTS, asked, (0, 1, 2))
    together, videos = latents_of(job)
    assert job.num_denoised == 3 and len(videos) == 3
    alone = [latents_of(generator.scout(scenario, prompt, asked)) for prompt in PROMPTS]
    torch.testing.assert_close(together, torch.cat([latents for latents, _ in alone]), rtol=1e-4, atol=1e-5)
    for video, (_, other) in zip(videos, alone, strict=True):
        assert video.fps == other.fps and np.abs(video.frames.astype(int) - other.frames).max() <= 1
    assert len({video.frames.tobytes() for video in videos}) == 3


@pytest.mark.parametrize("kept", ["own", "for two steps"])
def test_prefixes_that_are_computed_once_are_shared(
    folder: Path, tmp_path: Path, scenario: Scenario, kept: str
) -> None:
    if kept == "own":
        folder = tiny_wan.build_folder(tmp_path / "own")
        tiny_wan.edit(folder, "retake.json", prefix_attention="own")
    generator = load(folder, forward="fast", compile="off", prefix_kept=0.0 if kept == "own" else 0.5)
    generator.batched = True
    together, _ = latents_of(generator.scouts(scenario, PROMPTS, FORM, (0, 1, 2)))
    alone = torch.cat([latents_of(generator.scout(scenario, prompt, FORM))[0] for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_what_is_not_shown_is_denoised_and_not_decoded(folder: Path, scenario: Scenario) -> None:
    generator = load(folder)
    _, every = latents_of(generator.scouts(scenario, PROMPTS, FORM, (0, 1, 2)))
    job = generator.scouts(scenario, PROMPTS, FORM, (2, 0))
    steps = job.steps_left
    found, videos = latents_of(job)
    assert len(found) == 2 and steps < generator.scouts(scenario, PROMPTS, FORM, (0, 1, 2)).steps_left
    assert np.array_equal(videos[0].frames, every[2].frames)
    assert np.array_equal(videos[1].frames, every[0].frames)


def test_a_take_is_never_made_in_company(folder: Path, scenario: Scenario) -> None:
    at_once = latents_of(load(folder).start(scenario, ALONE))[0]
    generator, form = load(folder), FORMS["first"]
    latents_of(generator.scouts(scenario, PROMPTS, form, (0,)))
    job = generator.finish(scenario, ALONE, form)
    assert torch.equal(latents_of(job)[0], at_once) and job.num_denoised == 6


@pytest.mark.slow
@pytest.mark.parametrize("build", [tiny_wan_variants.build_i2v, tiny_wan_variants.build_vace])
def test_variants_with_channels_share_forwards_too(tmp_path: Path, build: Any) -> None:
    generator = load(build(tmp_path / "model"), 4, forward="fast", compile="off")
    scenario, form = tiny_wan_variants.build_clip(tmp_path), replace(FORM, steps=2)
    together, _ = latents_of(generator.scouts(scenario, PROMPTS, form, (0, 1, 2)))
    alone = torch.cat([latents_of(generator.scout(scenario, prompt, form))[0] for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_what_cannot_share_a_forward_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(generator: Any, form: ScoutForm, why: str) -> None:
        with pytest.raises(ConfigError, match=why) as error:
            generator.check_scouts(form)
        assert error.value.fix == "set loop.scout_batch = 1"
        generator.check_scouts(replace(form, together=1))

    refused(load(folder), replace(FORM, kept=0.5), "loop.scout_batch is 3.*made alone")
    refused(load(folder, states=True), FORM, "hidden states are kept")
    refused(load(folder, early_stop=0.1), FORMS["first"], "a step of its own")
    load(folder, early_stop=0.1).check_scouts(FORM)
    exported = load(folder)
    exported.denoiser_bytes = 1
    refused(exported, FORM, "an exported denoiser has the rows")
    cosmos = tiny_cosmos3_folder.build_folder(tmp_path / "cosmos3")
    other = cosmos3.load(cosmos, device="cpu", dtype="fp32", num_inference_steps=6)
    refused(other, FORM, "lengths of their own")
    refused(load(tiny_wan_variants.build_anyflow(tmp_path / "far"), 6), FORM, "what it keeps of one take")


def test_memory_of_a_batch_is_planned(folder: Path) -> None:
    generator = load(folder)
    alone = generator.footprint(generator.spec)
    together = generator.footprint_of_scouts(generator.spec, FORM)
    assert together.held == alone.held
    assert together.working["denoise step"] == 3 * alone.working["denoise step"]
    assert generator.footprint_of_scouts(generator.spec, replace(FORM, together=1)) == alone
