"""First steps taken again: where the latents stand, what is drawn anew, and how many steps that takes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from engine.denoise.beginnings import ALL, Part
from engine.denoise.finite import FiniteWatch
from engine.denoise.restarts import Restarted, num_left, refuse_restarts, region
from engine.denoise.rollout import FlowRollout
from engine.denoise.sampler import FlowSampler, PrefixTimestep, read_schedule
from engine.errors import ConfigError
from engine.types import Restarts

SCHEDULERS = {
    "unipc": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    "euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
}
SHAPE = (1, 4, 3, 2, 2)
STEPS = 8
TWICE = Restarts(times=2, steps=4, share=0.5, differ=np.ones((1, 1, 1), np.float32))
WHERE = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.bool)
WHERE[..., 0] = True


def random(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Guide:
    """Velocities that depend on all of the latents; notes which steps it was asked."""

    def __init__(self, asked: list[int]) -> None:
        self._asked = asked

    def velocity(self, latents: Tensor, timestep: PrefixTimestep, step: int) -> Tensor:
        self._asked.append(step)
        return 0.5 * latents + latents.mean() + timestep.value / 1000


def take_of(name: str, asked: list[int]) -> object:
    schedule = read_schedule(SCHEDULERS[name], STEPS)

    def take(part: Part, noise: Tensor) -> FlowRollout:
        sampler = FlowSampler(schedule, noise, patch_px=1)
        return FlowRollout(sampler, Guide(asked), FiniteWatch(), num_steps=STEPS, early_stop=0.0, part=part)

    return take


@pytest.mark.parametrize("name", SCHEDULERS)
def test_it_goes_back_by_the_forward_process_and_elsewhere_to_where_it_was(name: str) -> None:
    schedule = read_schedule(SCHEDULERS[name], STEPS)
    sampler = FlowSampler(schedule, random(0), patch_px=1)
    stood = []
    for step in range(4):
        sampler.advance(random(1 + step))
        stood.append(sampler.latents)
    noise, known = sampler.returned(1, random(9), WHERE, shown=random(10))
    again = FlowSampler(schedule, noise, patch_px=1)
    again.go_on(known)
    low, high = schedule.noise_share(4), schedule.noise_share(1)
    keep = (1 - high) / (1 - low)
    expected = keep * stood[3] + math.sqrt(high**2 - (keep * low) ** 2) * random(9)
    assert low < high < 1 and again.step == 1
    assert torch.equal(again.latents[..., 1:], stood[0][..., 1:])
    torch.testing.assert_close(again.latents[..., :1], expected[..., :1], rtol=1e-5, atol=1e-5)
    points_at = again.latents - high * known[0]
    torch.testing.assert_close(points_at[..., :1], random(10)[..., :1], rtol=0, atol=3e-3)


def test_steps_are_counted_down_and_taken_in_order() -> None:
    asked: list[int] = []
    rollout = Restarted(
        take_of("unipc", asked), random(0), WHERE,  # type: ignore[arg-type]
        restarts=TWICE, part=ALL, num_steps=STEPS, seed=7,
    )  # fmt: skip
    left = list(rollout.steps())
    assert asked == [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 5, 6, 7]
    assert left == list(range(13, -1, -1)) and num_left(ALL, TWICE, STEPS) == 14
    assert torch.isfinite(rollout.latents).all()


def latents_of(where: Tensor, seed: int = 7, part: Part = ALL, restarts: Restarts = TWICE) -> Tensor:
    rollout = Restarted(
        take_of("unipc", []), random(0), where,  # type: ignore[arg-type]
        restarts=restarts, part=part, num_steps=STEPS, seed=seed,
    )  # fmt: skip
    list(rollout.steps())
    return rollout.latents


def test_where_scouts_agree_everywhere_it_is_the_take() -> None:
    plain = take_of("unipc", [])(ALL, random(0))  # type: ignore[operator]
    list(plain.steps())
    assert torch.equal(latents_of(torch.zeros_like(WHERE)), plain.latents)
    assert not torch.equal(latents_of(WHERE), plain.latents)


def test_noise_is_the_takes_own_and_each_restart_has_another() -> None:
    assert torch.equal(latents_of(WHERE), latents_of(WHERE))
    assert not torch.equal(latents_of(WHERE), latents_of(WHERE, seed=8))
    assert not torch.equal(latents_of(WHERE), latents_of(WHERE, restarts=replace(TWICE, times=1)))


@pytest.mark.parametrize("num_known", [1, 4, 6])
def test_it_goes_on_behind_known_steps(num_known: int) -> None:
    asked: list[int] = []
    first = take_of("unipc", asked)(Part(until=num_known), random(0))  # type: ignore[operator]
    list(first.steps())
    part = Part(known=first.velocities)
    assert torch.equal(latents_of(WHERE, part=part), latents_of(WHERE))
    assert num_left(part, TWICE, STEPS) == 14 - min(num_known, 3), "the last of them says where it points"


def test_the_region_is_where_scouts_differ_most_behind_the_prefix() -> None:
    differ = np.zeros((4, 4, 2), np.float32)  # two pixel frames a latent one, two rows a latent row
    differ[0:2, 0:2, 1] = 3.0
    differ[2:4, 2:4, 0] = 2.0
    differ[3, 0, 0] = 4.0  # a mean of 1
    found = region(replace(TWICE, share=0.25, differ=differ), (1, 4, 3, 2, 2), prefix_frames=1)
    assert found.shape == (1, 1, 3, 2, 2) and not found[0, 0, 0].any()
    assert found[0, 0, 1:].tolist() == [[[False, True], [False, False]], [[False, False], [True, False]]]
    whole = region(replace(TWICE, share=1.0, differ=differ), (1, 4, 3, 2, 2), prefix_frames=1)
    assert int(whole.sum()) == 3, "never where they agree"
    nothing = region(replace(TWICE, differ=0 * differ), (1, 4, 3, 2, 2), prefix_frames=1)
    assert not nothing.any()


def test_what_cannot_be_taken_again_is_refused() -> None:
    refuse_restarts(4, num_steps=5, goes_on=True, early_stop=0.0)
    with pytest.raises(ConfigError, match="restart_steps is 5, and a take has 5"):
        refuse_restarts(5, num_steps=5, goes_on=True, early_stop=0.0)
    with pytest.raises(ConfigError, match="first frames alone"):
        refuse_restarts(4, num_steps=5, goes_on=False, early_stop=0.0)
    with pytest.raises(ConfigError, match="early_stop"):
        refuse_restarts(4, num_steps=5, goes_on=True, early_stop=0.1)
