"""A take that begins where its scout ended: its latents there, and which steps it takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from engine.denoise.after_scout import AfterScout
from engine.denoise.beginnings import ALL, Part, steps_kept
from engine.denoise.sampler import FlowSampler, read_schedule
from engine.types import ScoutForm

SCHEDULERS = {
    "unipc": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    "euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
}


def random(seed: int) -> Tensor:
    return torch.randn((1, 4, 3, 2, 2), generator=torch.Generator().manual_seed(seed))


class Fixed:
    """A rollout of so many steps to known latents."""

    def __init__(self, latents: Tensor, num_steps: int) -> None:
        self.latents, self._num_steps = latents, num_steps

    def steps(self) -> Iterator[int]:
        yield from range(self._num_steps - 1, -1, -1)


class Taken(Fixed):
    """What is left of a take of `num_steps`; notes the latents that it begins with."""

    def __init__(self, part: Part, name: str, num_steps: int) -> None:
        schedule = read_schedule(SCHEDULERS[name], num_steps)
        sampler = FlowSampler(schedule, random(1), patch_px=1)
        sampler.go_on(part.known)
        self.begun, self.share = sampler.latents, schedule.noise_share(sampler.step)
        super().__init__(random(3), part.num_left(num_steps))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("is_known", [False, True])
def test_it_begins_with_what_the_scout_shows_as_noisy_as_a_take_is_there(name: str, is_known: bool) -> None:
    noise, shown, made = random(1), random(2), list[Taken]()

    def take(part: Part) -> Taken:
        made.append(Taken(part, name, 8))
        return made[-1]

    rollout = AfterScout(shown if is_known else Fixed(shown, 2), noise, take, num_kept=3, num_left=5)
    left = list(rollout.steps())
    assert left == ([] if is_known else [6, 5]) + [4, 3, 2, 1, 0]
    (one,) = made
    expected = (1 - one.share) * shown + one.share * noise
    assert 0.3 < one.share < 0.95
    torch.testing.assert_close(one.begun, expected, rtol=0, atol=2e-3)
    assert torch.equal(rollout.latents, random(3))


@pytest.mark.parametrize(("kept", "steps"), [(0.0, 0), (0.01, 1), (0.5, 4), (0.9, 7)])
def test_some_steps_are_kept_and_some_are_left(kept: float, steps: int) -> None:
    assert steps_kept(ScoutForm(steps=2, whole=True, kept=kept), 8) == steps
    assert ALL.num_left(8) == 8
