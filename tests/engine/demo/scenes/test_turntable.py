"""The stick and the blocks: reproducible pictures, a chain that ends as planned, the sense of turning."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from engine.demo.scenes import turntable
from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Scene
from engine.demo.scenes.turntable import Turntable, fall_times_s, sample_turntable, simulate_turntable

SEEDS = range(6)
KIND = turntable.KINDS[0]
SPOILERS = (
    "left",
    "right",
    "clockwise",
    "counterclockwise",
    "slow",
    "medium",
    "fast",
    "gap",
    "fall",
    "three",
)


def params(seed: int) -> Turntable:
    return sample_turntable(np.random.default_rng(seed))


def test_takes_are_reproducible_and_take_two_is_near() -> None:
    for seed in SEEDS:
        scene = Scene(KIND, seed, params(seed))
        one, two = scene.render(1, "center", 32), scene.render(2, "center", 32)
        assert one.shape == (NUM_FRAMES, 32, 32, 3) and one.dtype == np.uint8
        assert np.array_equal(one, scene.render(1, "center", 32)) and not np.array_equal(one, two)
        assert np.abs(one.astype(int) - two).mean() < 6.0
        change = np.abs(np.diff(one.astype(int), axis=0)).max(axis=(1, 2, 3)) > 20
        assert change[: SWITCH - 1].sum() > 12 and change[SWITCH:].sum() > 20


def test_plans_are_ordered_and_small_and_the_brief_gives_nothing_away() -> None:
    for seed in SEEDS:
        plan, brief = Scene(KIND, seed, params(seed)).truth, Scene(KIND, seed, params(seed)).brief
        times = [event.t for event in plan.events]
        assert 1 <= len(times) <= 4 and times == sorted(times) and times[0] >= 0.0 and times[-1] <= 5.0
        words = [w for o in plan.objects for w in (o.name, o.trait)] + [e.what for e in plan.events]
        words += [w for m in plan.motion for w in (m.object, m.direction, m.speed)] + list(plan.still)
        assert all(re.fullmatch(r"[a-z ]+", word) for word in words)
        assert not set(SPOILERS) & set(re.findall(r"[a-z]+", brief.lower()))


def test_the_chain_falls_up_to_the_gap_and_the_plan_counts_what_stands() -> None:
    for seed in range(24):
        p = params(seed)
        states = simulate_turntable(p)
        falls = fall_times_s(states)
        assert [t is not None for t in falls] == [i < p.count - p.beyond_gap for i in range(p.count)]
        fallen = [t for t in falls if t is not None]
        assert fallen == sorted(fallen)
        text = " ".join(event.what for event in turntable.describe_turntable(p, states)[1].events)
        assert ("standing" in text) == (p.beyond_gap > 0)


def test_blocks_stand_still_until_the_stick_arrives() -> None:
    for seed in range(24):
        p = params(seed)
        angles = np.array([[block[2] for block in blocks] for _, blocks in simulate_turntable(p)])
        hit = SWITCH + int(np.floor(p.hit_s * FPS))
        assert np.abs(angles[:hit]).max() < 0.02
        assert np.abs(angles[hit + 8]).max() > 0.05


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("clockwise", [False, True])
def test_the_drawn_stick_turns_as_the_plan_says_and_blocks_fall_away_from_it(
    sign: float, clockwise: bool
) -> None:
    p = replace(params(3), sign=sign, clockwise=clockwise)
    states = simulate_turntable(p)
    phases = np.array([phase for phase, _ in states])
    on_screen = np.unwrap(np.arctan2(p.front * np.cos(phases), p.sign * np.sin(phases)))
    assert (np.diff(on_screen) > 0).all() == clockwise  # y points down, so growing angles are clockwise
    assert np.sign(states[-1][1][0][2]) == sign
    plan = turntable.describe_turntable(p, states)[1]
    assert plan.motion[0].direction == ("clockwise" if clockwise else "counterclockwise")
