"""Scouts of fewer pixels: they continue the prefix in their size, from the averaged noise of their take."""

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

from engine.api.takes import finish
from engine.errors import ConfigError
from engine.generators.cosmos3 import generator as cosmos3
from engine.generators.wan import generator as wan
from engine.settings.presets import DenoiseSettings
from engine.types import Prompt, Scenario, ScoutForm

torch.set_num_threads(1)

PROMPT = Prompt(text="a red ball rolls to the right", negative="still", seed=7, revision=0)
SMALL = ScoutForm(steps=2, whole=True, shrink=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    cosmos = tiny_cosmos3_folder.build_folder(root / "cosmos3")
    tiny_wan.edit(cosmos, "retake.json", height=64)
    return {"wan": tiny_wan.build_folder(root / "wan"), "cosmos3": cosmos}


def load(folders: dict[str, Path], family: str, size: int | None = None, **settings: Any) -> Any:
    load = {"wan": wan, "cosmos3": cosmos3}[family].load
    states = settings.pop("states", False)
    return load(
        folders[family], device="cpu", dtype="fp32", num_inference_steps=4,
        denoise=DenoiseSettings(**settings), states=states,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["wan", "cosmos3"])
def test_a_small_scout_is_a_take_of_that_size_and_the_take_stays_as_it_was(
    folders: dict[str, Path], scenario: Scenario, family: str
) -> None:
    at_once = finish(load(folders, family).start(scenario, PROMPT)).frames
    generator = load(folders, family)
    spec = generator.spec
    generator.check_scouts(SMALL)
    job = generator.scout(scenario, PROMPT, SMALL)
    noise, small = job._noise(), finish(job)
    assert small.frames.shape == (spec.num_frames, spec.height // 2, spec.width // 2, 3)
    assert small.fps == spec.fps
    full = generator.scout(scenario, PROMPT, replace(SMALL, shrink=1))._noise()
    four = full.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).sum(dim=(-3, -1))
    torch.testing.assert_close(noise, four / 2)
    assert abs(float(noise.std()) - 1) < 0.1, "it is as much noise as a take begins with"
    assert np.array_equal(finish(generator.finish(scenario, PROMPT, SMALL)).frames, at_once)
    assert np.array_equal(finish(generator.scout(scenario, PROMPT, SMALL)).frames, small.frames)


def test_small_scouts_share_forwards(folders: dict[str, Path], scenario: Scenario) -> None:
    generator = load(folders, "wan", forward="fast", compile="off")
    prompts, form = [PROMPT, replace(PROMPT, seed=8)], replace(SMALL, together=2)
    videos = finish(generator.scouts(scenario, prompts, form, (0, 1)))
    for video, prompt in zip(videos, prompts, strict=True):
        alone = finish(generator.scout(scenario, prompt, SMALL)).frames
        assert np.abs(video.frames.astype(int) - alone).max() <= 1


def test_sizes_that_a_model_has_not_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    generator = load(folders, "wan")
    for form, why in (
        (replace(SMALL, whole=False), "loop.scout_shrink is 2.*first, whose steps"),
        (replace(SMALL, kept=0.5), "begins with what its scout ended with"),
    ):
        with pytest.raises(ConfigError, match=why):
            generator.check_scouts(form)
    parts = generator.parts
    multiple = parts.vae.config.scale_factor_spatial * parts.transformer.config.patch_size[1]
    odd = tiny_wan.build_folder(tmp_path / "odd")
    tiny_wan.edit(odd, "retake.json", width=3 * multiple)
    with pytest.raises(ConfigError, match=f"is {3 * multiple} pixels.*multiple of {multiple} also"):
        wan.load(odd, device="cpu", dtype="fp32", num_inference_steps=4).check_scouts(SMALL)
    with pytest.raises(ConfigError, match="among videos of one size"):
        load(folders, "wan", states=True).check_scouts(SMALL)
    generator.denoiser_bytes = 1
    with pytest.raises(ConfigError, match="the size that it was built for"):
        generator.check_scouts(SMALL)
    far = wan.load(tiny_wan_variants.build_anyflow(tmp_path / "far"), device="cpu", dtype="fp32")
    with pytest.raises(ConfigError, match="are of one size"):
        far.check_scouts(replace(SMALL, steps=1))


def test_memory_of_small_scouts_is_at_most_a_takes(folders: dict[str, Path]) -> None:
    generator = load(folders, "wan")
    takes = generator.footprint(generator.spec)
    assert generator.footprint_of_scouts(generator.spec, SMALL) == takes
    full = generator.footprint_of_scouts(generator.spec, many := replace(SMALL, together=64, shrink=1))
    small = generator.footprint_of_scouts(generator.spec, replace(many, shrink=2))
    step = "denoise step"
    assert takes.working[step] < small.working[step] < full.working[step]
