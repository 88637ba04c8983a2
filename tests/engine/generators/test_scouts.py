"""Scouts of both families: few steps, and a take that goes on from them as if it had been made at once."""

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
from engine.types import Frames, Prompt, Restarts, Scenario, ScoutForm

torch.set_num_threads(1)

PROMPT = Prompt(text="a red ball rolls to the right", negative="still", seed=7, revision=0)
FIRST, WHOLE = ScoutForm(steps=2, whole=False), ScoutForm(steps=2, whole=True)
STEPS = 5


@pytest.fixture(scope="module", params=["wan", "cosmos3"])
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fresh generator of `STEPS` steps with these denoise settings."""
    family, build = {
        "wan": (wan, tiny_wan.build_folder),
        "cosmos3": (cosmos3, tiny_cosmos3_folder.build_folder),
    }[request.param]
    folder = build(tmp_path_factory.mktemp("models") / request.param)

    def made(num_inference_steps: int = STEPS, states: bool = False, **settings: Any) -> Any:
        denoise = DenoiseSettings(**settings)
        return family.load(
            folder,
            device="cpu",
            dtype="fp32",
            num_inference_steps=num_inference_steps,
            denoise=denoise,
            states=states,
        )

    return made


def made(job: Any) -> tuple[Frames, int]:
    """Frames, and how many denoise steps they took."""
    video = finish(job)
    return video.frames, job.num_denoised


def test_a_take_goes_on_from_its_scout_bit_by_bit(load: Any, scenario: Scenario) -> None:
    at_once, _ = made(load().start(scenario, PROMPT))
    generator = load()
    scout, num_steps = made(generator.scout(scenario, PROMPT, FIRST))
    assert num_steps == 2 and scout.shape == at_once.shape and not np.array_equal(scout, at_once)
    further, num_steps = made(generator.scout(scenario, PROMPT, replace(FIRST, steps=4)))
    assert num_steps == 2, "it stands on the first look"
    assert np.array_equal(further, made(load().scout(scenario, PROMPT, replace(FIRST, steps=4)))[0])
    take, num_steps = made(generator.start(scenario, PROMPT))
    assert num_steps == 1 and np.array_equal(take, at_once)
    other, num_steps = made(generator.start(scenario, replace(PROMPT, seed=8)))
    assert num_steps == STEPS and not np.array_equal(other, at_once)


@pytest.mark.parametrize("memory", [{"cfg_gate": 0.4}, {"step_cache": 0.4}, {"early_stop": 0.01}])
def test_a_take_that_remembers_more_than_velocities_begins_anew(
    load: Any, scenario: Scenario, memory: dict[str, float]
) -> None:
    at_once, all_steps = made(load(**memory).start(scenario, PROMPT))
    generator = load(**memory)
    made(generator.scout(scenario, PROMPT, FIRST))
    take, num_steps = made(generator.start(scenario, PROMPT))
    assert num_steps == all_steps and np.array_equal(take, at_once)


@pytest.mark.parametrize("load", ["wan"], indirect=True)
@pytest.mark.parametrize(("kept", "known"), [(0.1, 2), (0.3, 0)])
def test_a_take_goes_on_from_a_step_that_computes_its_prefix(
    load: Any, scenario: Scenario, kept: float, known: int
) -> None:
    settings = {"forward": "fast", "prefix_kept": kept}
    at_once, all_steps = made(load(**settings).start(scenario, PROMPT))
    generator = load(**settings)
    made(generator.scout(scenario, PROMPT, FIRST))
    take, num_steps = made(generator.start(scenario, PROMPT))
    assert num_steps == all_steps - known and np.array_equal(take, at_once)


def test_a_whole_scout_is_a_take_of_so_few_steps(load: Any, scenario: Scenario) -> None:
    generator = load()
    scout, num_steps = made(generator.scout(scenario, PROMPT, WHOLE))
    assert num_steps == 2
    assert np.array_equal(scout, made(load(num_inference_steps=2).start(scenario, PROMPT))[0])
    take, num_steps = made(generator.start(scenario, PROMPT))
    assert num_steps == STEPS and np.array_equal(take, made(load().start(scenario, PROMPT))[0])


def test_a_take_that_keeps_the_motion_of_its_scout_begins_where_that_ended(
    load: Any, scenario: Scenario
) -> None:
    form = replace(WHOLE, kept=0.6)
    generator = load()
    scout, _ = made(generator.scout(scenario, PROMPT, form))
    kept, num_steps = made(generator.finish(scenario, PROMPT, form))
    assert num_steps == 2, "three of five steps are kept, and those of the scout are known"
    again, num_steps = made(load().finish(scenario, PROMPT, form))
    assert num_steps == 2 + 2 and np.array_equal(kept, again), "whether or not the scout was made"
    take, num_steps = made(generator.start(scenario, PROMPT))
    assert num_steps == STEPS and np.array_equal(take, made(load().start(scenario, PROMPT))[0])
    assert not np.array_equal(kept, take) and not np.array_equal(kept, scout)
    plain, _ = made(generator.finish(scenario, PROMPT, WHOLE))
    assert np.array_equal(plain, take)
    with pytest.raises(ConfigError, match="whose steps are those of the take already"):
        generator.finish(scenario, PROMPT, replace(FIRST, kept=0.5))


def test_a_take_with_restarts_is_the_take_where_scouts_agree(load: Any, scenario: Scenario) -> None:
    generator = load()
    spec, at_once = generator.spec, made(load().start(scenario, PROMPT))[0]
    differ = np.zeros((spec.num_frames, 2, 2), np.float32)
    same = Restarts(times=1, steps=3, share=0.5, differ=differ)
    take, num_steps = made(generator.finish(scenario, PROMPT, WHOLE, same))
    assert num_steps == STEPS + 2 and np.array_equal(take, at_once)
    differ = differ.copy()
    differ[-4:] = 1.0
    job = generator.finish(scenario, PROMPT, FIRST, other := replace(same, differ=differ))
    assert job.steps_left > num_steps
    found, _ = made(job)
    assert not np.array_equal(found, at_once)
    made(generator.scout(scenario, PROMPT, FIRST))
    again, num_steps = made(generator.finish(scenario, PROMPT, FIRST, other))
    assert num_steps == STEPS and np.array_equal(again, found), "behind the two steps of its scout"
    assert np.array_equal(made(load().start(scenario, PROMPT))[0], at_once)
    with pytest.raises(ConfigError, match="restart_steps is 5, and a take has 5"):
        generator.finish(scenario, PROMPT, WHOLE, replace(other, steps=5))


def test_a_take_without_scouts_takes_its_steps_again_everywhere(load: Any, scenario: Scenario) -> None:
    generator = load()
    everywhere = Restarts(times=2, steps=3, share=1.0, differ=np.ones((1, 1, 1), np.float32))
    found, num_steps = made(generator.start(scenario, PROMPT, restarts=everywhere))
    assert num_steps == STEPS + 2 * 2
    assert np.array_equal(found, made(load().finish(scenario, PROMPT, WHOLE, everywhere))[0])
    plain = made(generator.start(scenario, PROMPT))[0]
    assert np.array_equal(plain, made(load().start(scenario, PROMPT))[0]) and not np.array_equal(found, plain)
    with pytest.raises(ConfigError, match="restart_steps is 5, and a take has 5"):
        generator.start(scenario, PROMPT, restarts=replace(everywhere, steps=5))


def test_states_of_steps_that_were_taken_again_are_the_last_ones(load: Any, scenario: Scenario) -> None:
    generator = load(states=True)
    differ = np.ones((generator.spec.num_frames, 1, 1), np.float32)
    plain, again = (
        generator.finish(scenario, PROMPT, WHOLE, restarts)
        for restarts in (None, Restarts(times=2, steps=3, share=1.0, differ=differ))
    )
    (made(plain), made(again))
    one, other = plain.result().states, again.result().states
    assert other.sites.steps == (0, 1, 2, 3) and np.array_equal(one.values[0], other.values[0])
    assert not np.array_equal(one.values[1], other.values[1])


def test_hidden_states_are_of_the_steps_that_were_seen(load: Any, scenario: Scenario) -> None:
    """A take that went on from its scouts would lack those by which it is chosen, so it begins anew."""
    generator = load(states=True)

    def seen(job: Any) -> tuple[int, ...]:
        made(job)
        return job.result().states.sites.steps

    assert seen(generator.scout(scenario, PROMPT, FIRST)) == (0, 1)
    assert seen(generator.scout(scenario, PROMPT, replace(FIRST, steps=4))) == (0, 1, 2, 3)
    job = generator.start(scenario, PROMPT)
    assert seen(job) == (0, 1, 2, 3) and job.num_denoised == STEPS
    assert np.array_equal(job.result().frames, made(load().start(scenario, PROMPT))[0])
    few = generator.scout(scenario, PROMPT, WHOLE)
    assert (
        seen(few) == (0, 1)
        and few.result().states.sites.timesteps[1] != job.result().states.sites.timesteps[1]
    )
    kept = generator.finish(scenario, PROMPT, replace(WHOLE, kept=0.4))
    assert seen(kept) == (2, 3), "of its own steps, not of the scout's"


def test_stills_are_one_picture_a_latent_frame(load: Any, scenario: Scenario) -> None:
    generator = load()
    job = generator.scout(scenario, PROMPT, replace(FIRST, stills=True))
    frames, _ = made(job)
    spec = generator.spec
    assert frames.shape == (spec.num_frames // 4, spec.height, spec.width, 3)
    assert job.result().fps == spec.fps / 4


def test_a_scout_that_is_no_cheaper_is_refused(load: Any, scenario: Scenario) -> None:
    with pytest.raises(ConfigError, match=r"5 denoise steps is no cheaper than a take, which has 5"):
        load().scout(scenario, PROMPT, replace(FIRST, steps=STEPS))


def test_chunk_after_chunk_has_whole_scouts_alone(tmp_path: Path) -> None:
    folder = tiny_wan_variants.build_anyflow(tmp_path / "anyflow", num_inference_steps=3)
    generator: Any = wan.load(folder, device="cpu", dtype="fp32")
    scenario = tiny_wan_variants.build_clip(tmp_path)
    with pytest.raises(ConfigError, match=r"first frames alone") as refused:
        generator.scout(scenario, PROMPT, FIRST)
    assert 'scout_form = "whole"' in refused.value.fix
    scout, num_steps = made(generator.scout(scenario, PROMPT, WHOLE))
    take, all_steps = made(generator.start(scenario, PROMPT))
    assert scout.shape == take.shape and 3 * num_steps == 2 * all_steps
    with pytest.raises(ConfigError, match=r"loop.scout_kept is set, and the first steps"):
        generator.scout(scenario, PROMPT, replace(WHOLE, kept=0.5))


def test_a_distilled_model_has_first_steps_alone(tmp_path: Path, scenario: Scenario) -> None:
    folder = tiny_wan.build_folder(tmp_path / "wan")
    tiny_wan.edit(folder, "retake.json", timesteps=[1000, 700, 400], timesteps_are="after shift")
    generator = wan.load(folder, device="cpu", dtype="fp32")
    with pytest.raises(ConfigError, match="distilled"):
        generator.scout(scenario, PROMPT, WHOLE)
    made(generator.scout(scenario, PROMPT, FIRST))
    assert made(generator.start(scenario, PROMPT))[1] == 1
