"""Hollow folders are planned like real ones, and what is planned can be had by its name."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from bench.perf.model_needs import pairs, take
from bench.perf.published import CRITICS, GENERATORS, MIDDLE_CRITIC, TI2V, Generator
from bench.results_page.result_files import read_file
from engine.build.hub import HOSTED

RESULTS = Path(__file__).parents[3] / "bench" / "results"
PLANNED: dict[str, Any] = {"steps": 40}
REFUSED: dict[str, Any] = {"steps": None}


def test_what_is_planned_can_be_had_by_its_name() -> None:
    assert {*GENERATORS, *CRITICS} <= HOSTED.keys()


def test_each_generator_has_a_critic_and_one_has_all() -> None:
    planned = dict(pairs())
    assert planned.keys() == GENERATORS.keys()
    assert planned.pop(TI2V) == list(CRITICS)
    assert all(critics == [MIDDLE_CRITIC] for critics in planned.values())


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        (TI2V, 5.0),
        ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", 14.29),
        ("Wan-AI/Wan2.1-VACE-1.3B-diffusers", 2.15),
        ("Wan-AI/Wan2.1-VACE-14B-diffusers", 17.3),
        ("nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers", 1.42),
        ("nvidia/AnyFlow-FAR-Wan2.1-14B-Diffusers", 14.32),
    ],
)
def test_a_transformer_has_the_published_parameters(name: str, billions: float) -> None:
    model = GENERATORS[name]
    with torch.device("meta"):
        made = getattr(diffusers, model.transformer_class)(**model.transformer)
    found = sum(parameter.numel() for parameter in made.parameters()) / 1e9
    assert found == pytest.approx(billions, rel=0.005)


def test_a_take_has_the_steps_of_the_plans_that_fit() -> None:
    guided, alone = Generator(transformer={}), Generator(transformer={}, is_guided=False)
    assert take(guided, [REFUSED, PLANNED]) == {"steps": 40, "forwards_a_step": 2, "timed": None}
    assert take(alone, [REFUSED]) == {"steps": None, "forwards_a_step": 1, "timed": None}
    with pytest.raises(AssertionError, match="differ in steps"):
        take(guided, [PLANNED, {"steps": 4}])


def test_takes_are_reckoned_by_forwards_that_were_measured() -> None:
    timed = {name: model.timed for name, model in GENERATORS.items() if model.timed}
    assert timed.keys() == {"Wan-AI/Wan2.2-I2V-A14B-Diffusers", "nvidia/Cosmos3-Nano"}
    for one in timed.values():
        subjects = read_file(RESULTS / f"{one.file}.json").document["subjects"]
        assert one.subject in [subject["name"] for subject in subjects], asdict(one)


def test_an_expert_of_wan_has_the_tokens_of_prefix_and_take() -> None:
    """33 latent frames of 30 x 52 patches; attention grows with their square, layers with their number."""
    timed = GENERATORS["Wan-AI/Wan2.2-I2V-A14B-Diffusers"].timed
    assert timed is not None and timed.tflop is not None
    tokens, width = 33 * 30 * 52, 5120
    attention = 40 * (4 * tokens**2 * width + 4 * tokens * 512 * width)
    linear = 40 * (2 * (6 * width**2 + 2 * width * 13824) * tokens + 4 * width**2 * 512)
    assert math.isclose(timed.tflop, (attention + linear) / 1e12)
