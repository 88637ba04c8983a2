"""Every setting of the denoiser through a whole take: it changes something or is refused, and it is safe.

The other half of test_generator.py: that one asks what a take is, this one what the settings do to it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_denoise as tiny
import torch
from tiny_wan import LATENT_CHANNELS, build_folder, build_scenario
from torch import Tensor

from engine.api.takes import finish
from engine.denoise.early_stop import LOOK_BACK
from engine.denoise.sampler import PrefixTimestep
from engine.errors import ConfigError
from engine.generators.wan import generator as wan
from engine.generators.wan.generator import WanGenerator
from engine.settings.presets import PRESETS, DenoiseSettings
from engine.types import Prompt, Scenario

torch.set_num_threads(1)

PROMPT = Prompt(text="a red ball rolls to the right", negative="still", seed=7, revision=0)
STEPS = 8
FAST = DenoiseSettings(forward="fast")
LOW = replace(FAST, quantized_attention=("sdpa_math",))
EXACT = DenoiseSettings()
FLIPS: dict[str, tuple[DenoiseSettings, object, str]] = {
    # setting: what it is changed in, to what, and what must differ
    "forward": (EXACT, "fast", "notes"),
    "attention": (replace(FAST, attention=("sdpa_flash", "sdpa_math")), ("sdpa_math",), "notes"),
    "quantized_attention": (FAST, ("sdpa_math",), "notes"),
    "quantized_first": (LOW, 0.5, "notes"),
    "quantized_last": (LOW, 0.5, "notes"),
    "linear": (FAST, "fp8", "frames"),
    "policy": (FAST, "auto", "notes"),
    "element_wise": (FAST, "compiler", "notes"),
    "compile": (FAST, "on", "notes"),
    "graphs": (FAST, "on", "error"),
    "vae": (EXACT, "fused", "notes"),  # fp8 is of measured weights: test_generator.py
    "vae_chunk": (EXACT, 2, "notes"),
    "prefix_kept": (FAST, 0.5, "frames"),
    "cfg_gate": (EXACT, 0.5, "frames"),
    "step_cache": (EXACT, 0.4, "frames"),
    "step_cache_by": (replace(EXACT, step_cache=0.4), "magnitude", "error"),
    "early_stop": (EXACT, 0.9, "frames"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With blocks enough for some to be 8-bit, and a head size that the kernels take."""
    made = build_folder(tmp_path_factory.mktemp("models") / "wan")
    assert tiny.CHANNELS == LATENT_CHANNELS
    tiny.transformer(patch_px=2, num_layers=4, head_dim=16).save_pretrained(made / "transformer")
    return made


def load(folder: Path, settings: DenoiseSettings, *, steps: int = STEPS, **options: Any) -> WanGenerator:
    arguments = {"device": "cpu", "dtype": "fp32"} | options
    return wan.load(folder, num_inference_steps=steps, denoise=settings, **arguments)


def frames(generator: WanGenerator, scenario: Scenario, **changes: Any) -> np.ndarray:
    return finish(generator.start(scenario, replace(PROMPT, **changes))).frames.astype(int)


# --- no setting is dropped ----------------------------------------------------------------------------------


def test_every_setting_is_flipped_below() -> None:
    assert list(FLIPS) == [part.name for part in dataclasses.fields(DenoiseSettings)]
    for name, (base, value, _) in FLIPS.items():
        assert getattr(base, name) != value


@pytest.mark.parametrize("name", FLIPS)
def test_a_setting_changes_something_or_is_refused(folder: Path, scenario: Scenario, name: str) -> None:
    base, value, effect = FLIPS[name]
    flipped = replace(base, **{name: value})  # type: ignore[arg-type]
    before = load(folder, base)
    if effect == "error":
        with pytest.raises(ConfigError, match=name):
            load(folder, flipped)
        return
    after = load(folder, flipped)
    if effect == "notes":
        assert before.notes != after.notes
        assert {key for key in after.notes if before.notes.get(key) != after.notes[key]} >= {name_of(name)}
    else:
        assert not np.array_equal(frames(before, scenario), frames(after, scenario))


def name_of(setting: str) -> str:
    """The note in which a setting shows."""
    return "quantized_attention" if setting in ("quantized_first", "quantized_last") else setting


def test_the_fast_preset_gives_the_same_video_in_fp32_on_a_cpu(folder: Path, scenario: Scenario) -> None:
    of_each_step = replace(PRESETS["fast"], prefix_kept=0.0)
    exact, fast = (frames(load(folder, preset), scenario) for preset in (PRESETS["exact"], of_each_step))
    assert np.abs(exact - fast).max() <= 1  # rounding at .5
    assert exact.std() > 1


def test_fastest_is_another_video_but_not_another_scene(folder: Path, scenario: Scenario) -> None:
    exact = load(folder, PRESETS["exact"])
    reference = frames(exact, scenario)
    away = np.abs(frames(load(folder, PRESETS["fastest"]), scenario) - reference).mean()
    assert 0 < away < 0.7 * np.abs(frames(exact, scenario, seed=8) - reference).mean()


@pytest.mark.parametrize("settings", [PRESETS["fastest"], replace(EXACT, early_stop=0.5)])
def test_order_and_interleaving_change_nothing(
    folder: Path, tmp_path: Path, settings: DenoiseSettings
) -> None:
    generator = load(folder, settings)
    scenarios = [build_scenario(tmp_path, name=f"000{i}_left", shade=20 * i) for i in range(3)]
    pairs = [(scenario, replace(PROMPT, seed=seed)) for seed, scenario in enumerate(scenarios)]
    alone = [finish(generator.start(*pair)).frames for pair in pairs]
    jobs = [generator.start(*pair) for pair in reversed(pairs)]
    while any(job.steps_left for job in jobs):
        for job in jobs:
            if job.steps_left:
                job.launch()
    assert all(map(np.array_equal, alone, [job.result().frames for job in reversed(jobs)]))


def test_weights_are_not_needed_to_plan_with_a_preset(folder: Path) -> None:
    outline = load(folder, PRESETS["fast"], with_weights=False)
    assert outline.footprint(outline.spec).held_bytes > 0 and outline.notes == {}


# --- early stop ---------------------------------------------------------------------------------------------


class Settled:
    """The velocity of a trajectory that leads straight to `clean`, which it knows from the first step on."""

    def __init__(self, generator: WanGenerator, seed: int) -> None:
        self._schedule = generator.schedule
        shape = wan.latent_shape(generator.parts.vae, generator.spec)
        self._noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        self._clean = torch.sin(torch.arange(self._noise.numel()) / 50).reshape(shape)
        self.num_calls = 0

    def prepare(self, text: Tensor) -> Tensor:
        return text

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: Tensor, *, branch: str) -> Tensor:
        self.num_calls += 1
        return self._noise - self._clean


def settled(folder: Path, threshold: float) -> tuple[WanGenerator, Settled]:
    generator = load(folder, replace(EXACT, early_stop=threshold), guidance_scale=1.0)
    generator.denoiser = denoiser = Settled(generator, PROMPT.seed)
    return generator, denoiser


def test_a_settled_take_stops_as_soon_as_that_is_known_with_the_frames_of_the_whole(
    folder: Path, scenario: Scenario
) -> None:
    generator, denoiser = settled(folder, 1e-3)
    job, counted = generator.start(scenario, PROMPT), []
    while job.steps_left:
        counted.append(job.steps_left)
        job.launch().wait()
    decode = 2
    known = LOOK_BACK + 2  # two previews make a change, which is looked at two steps later
    assert denoiser.num_calls == known
    # The encode step, the steps until it is known, then the decode steps alone.
    assert counted == [1 + STEPS + decode - i for i in range(1 + known)] + [2, 1]
    whole, ungated = settled(folder, 0.0)
    assert np.abs(job.result().frames.astype(int) - frames(whole, scenario)).max() <= 1
    assert ungated.num_calls == STEPS


def test_a_stopped_take_is_the_same_however_often_it_is_made(folder: Path, scenario: Scenario) -> None:
    settings = replace(EXACT, early_stop=0.9)
    generator = load(folder, settings)
    first = frames(generator, scenario)
    assert np.array_equal(first, frames(generator, scenario))
    assert np.array_equal(first, frames(load(folder, settings), scenario))


def test_a_threshold_that_is_never_met_changes_nothing(folder: Path, scenario: Scenario) -> None:
    whole = frames(load(folder, EXACT), scenario)
    assert np.array_equal(whole, frames(load(folder, replace(EXACT, early_stop=1e-9)), scenario))


def test_too_few_steps_to_know_are_all_made(folder: Path, scenario: Scenario) -> None:
    few = LOOK_BACK + 1
    whole = frames(load(folder, EXACT, steps=few), scenario)
    assert np.array_equal(whole, frames(load(folder, replace(EXACT, early_stop=1.0), steps=few), scenario))


# --- on a GPU -----------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [PRESETS["fast"], replace(PRESETS["fastest"], early_stop=0.5)],
    ids=["fast", "fastest"],
)
def test_launch_never_synchronizes_once_compiled(
    folder: Path, scenario: Scenario, settings: DenoiseSettings
) -> None:
    generator = load(folder, settings, device="cuda", dtype="bf16")
    expected = finish(generator.start(scenario, PROMPT)).frames
    finish(generator.start(scenario, replace(PROMPT, text="the tower falls", seed=2)))
    job, fences = generator.start(scenario, PROMPT), []
    torch.cuda.set_sync_debug_mode("error")
    try:
        while job.steps_left:
            fences.append(job.launch())
            if len(fences) > 1:
                fences[-2].wait()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    fences[-1].wait()
    assert np.array_equal(job.result().frames, expected), "the same numbers when replayed"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("part", ["text_encoder", "blocks"])
def test_a_streamed_part_gives_the_same_video_in_less_memory(
    folder: Path, scenario: Scenario, part: str, device: str
) -> None:
    resident = load(folder, EXACT, device=device)
    streamed = load(folder, EXACT, device=device, streamed=[part])
    assert np.array_equal(frames(resident, scenario), frames(streamed, scenario))
    assert streamed.notes["streamed"] == part
    held = [generator.footprint(generator.spec).held for generator in (resident, streamed)]
    name = "text encoder" if part == "text_encoder" else "transformer"
    assert held[1][name] < held[0][name] and held[0] | held[1] | {name: 0} == held[0] | {name: 0}
    outline = load(folder, EXACT, device=device, streamed=[part], with_weights=False)
    assert outline.footprint(outline.spec) == streamed.footprint(streamed.spec)


def test_blocks_that_visit_cannot_be_ours(folder: Path) -> None:
    with pytest.raises(ConfigError, match="only the library's forward"):
        load(folder, FAST, streamed=["blocks"])
