"""What is kept of hidden states: the moments by hand, where they are taken, and of which branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny_denoise as tiny
import torch
from torch import Tensor

from engine.denoise.experts import ExpertGuide
from engine.denoise.guidance import Guidance, GuidedText
from engine.denoise.sampler import PrefixTimestep
from engine.denoise.states import StateTap, pooled, sites_of
from engine.types import StateSites

TIMESTEPS = (990.0, 900.0, 770.0, 500.0, 310.0, 120.0)


def test_the_moments_by_hand() -> None:
    """Of the last row alone; five tokens have two in the first half."""
    tokens = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [6.0, 1.0], [8.0, 1.0]])
    found = pooled(torch.stack([tokens + 100, tokens]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[1.0, 1.0], [6.0, 1.0], [pytest.approx(8.0**0.5), 0.0]]


def test_what_is_not_added_yet_is_added_with_its_gate() -> None:
    states, pending = tiny.random(2, 6, 4, seed=1), tiny.random(2, 6, 4, seed=2)
    gate = tiny.random(1, 2, 4, seed=3)  # row 0 is the prefix's
    assert torch.allclose(pooled(states, pending, gate), pooled(states + pending * gate[:, 1:]))
    assert torch.allclose(pooled(states, pending), pooled(states + pending))
    assert not torch.allclose(pooled(states, pending), pooled(states))


def test_in_bf16_the_sums_are_float32() -> None:
    """1 is lost beside 256 in bf16, so that a sum in it would be wrong."""
    states = torch.ones(1, 512, 1, dtype=torch.bfloat16)
    assert pooled(states)[:, 0].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("num_layers", "layers"), [(1, (0,)), (2, (0, 1)), (8, (1, 3, 5)), (30, (7, 14, 21)), (40, (9, 19, 29))]
)
def test_middle_layers_and_the_first_predicted_steps(num_layers: int, layers: tuple[int, ...]) -> None:
    sites = sites_of(TIMESTEPS, {2}, num_layers=num_layers, width=8)
    assert sites == StateSites(
        steps=(0, 1, 3, 4), timesteps=(990.0, 900.0, 500.0, 310.0), layers=layers, width=8
    )
    assert sites_of(TIMESTEPS[:2], (), num_layers=8, width=8).steps == (0, 1)


class Watched:
    """A denoiser whose states say step, branch and layer."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str, tuple[int, ...]]] = []

    def prepare(self, text: Tensor) -> Tensor:
        return text

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: Any, *, branch: str) -> Tensor:
        self.asked.append((timestep.value, branch, ()))
        return latents.expand(len(text), -1, -1, -1, -1) * timestep.value

    def observed(
        self, latents: Tensor, timestep: PrefixTimestep, text: Any, *, branch: str, layers: Sequence[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        velocity = self(latents, timestep, text, branch=branch)
        self.asked[-1] = (timestep.value, branch, tuple(layers))
        return velocity, tuple(torch.full((3, 2), timestep.value + layer) for layer in layers)


def guided(denoiser: Watched, tap: StateTap | None, *, batched: bool = False, **options: Any) -> list[Tensor]:
    text = GuidedText(cond=tiny.text(seed=10), uncond=tiny.text(seed=20))
    guidance = Guidance(denoiser, text, 3.0, batched=batched, tap=tap, **options)
    return [guidance.velocity(tiny.latents(i), tiny.at(t), i) for i, t in enumerate(TIMESTEPS)]


SITES = StateSites(steps=(0, 1), timesteps=TIMESTEPS[:2], layers=(1, 4), width=2)


@pytest.mark.parametrize("batched", [True, False])
def test_the_branch_with_the_prompt_is_asked_at_the_sites_alone(batched: bool) -> None:
    plain, watched, tap = Watched(), Watched(), StateTap(SITES)
    expected = guided(plain, None, batched=batched, gate_step=4)
    assert all(map(torch.equal, guided(watched, tap, batched=batched, gate_step=4), expected))
    branch = "both" if batched else "cond"
    looked = [(value, name) for value, name, layers in watched.asked if layers == (1, 4)]
    assert looked == [(990.0, branch), (900.0, branch)]
    assert [entry[:2] for entry in watched.asked] == [entry[:2] for entry in plain.asked]
    tap.to_host()
    states = tap.states()
    assert states is not None and states.sites == SITES
    assert states.values.dtype == np.float32 and states.values.shape == (2, 2, 3, 2)
    assert states.values[:, :, 0, 0].tolist() == [[991.0, 994.0], [901.0, 904.0]]


def test_a_take_that_ends_early_says_what_it_has_seen() -> None:
    tap, watched = StateTap(SITES), Watched()
    tap.velocity(watched, tiny.latents(), tiny.at(990.0), tiny.text(), "cond", 0)
    tap.to_host()
    states = tap.states()
    assert states is not None and states.sites.steps == (0,) and states.sites.timesteps == (990.0,)
    assert StateTap(SITES).states() is None


def test_two_experts_leave_their_states_with_one_tap() -> None:
    """The boundary lies between the two steps that are looked at."""
    tap, experts = StateTap(SITES), (Watched(), Watched())
    text = GuidedText(cond=tiny.text(seed=10), uncond=None)
    made = [lambda one=one: Guidance(one, text, 1.0, tap=tap) for one in experts]
    guide = ExpertGuide(950.0, made)
    for step, value in enumerate(TIMESTEPS[:3]):
        guide.velocity(tiny.latents(), tiny.at(value), step)
    assert [one.asked for one in experts] == [
        [(990.0, "cond", (1, 4))],
        [(900.0, "cond", (1, 4)), (770.0, "cond", ())],
    ]
