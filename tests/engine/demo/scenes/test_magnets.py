"""Magnet scenes: one brief for both outcomes, the poles decide, plans agree with the trajectory."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from engine.demo.scenes import magnets
from engine.demo.scenes.base import NUM_FRAMES, SWITCH, Scene
from engine.demo.scenes.magnets import BAR, REACH, Magnets, sample_magnets, simulate_magnets

SEEDS = range(6)
KINDS = {kind.name: kind for kind in magnets.KINDS}
SPOILERS = ("left", "right", "slow", "medium", "fast", "attract", "repel", "north", "south", "ball", "stop")


def scene(name: str, seed: int) -> Scene:
    return Scene(KINDS[name], seed, KINDS[name].sample(np.random.default_rng(seed)))


def params(seed: int, like: bool) -> Magnets:
    return sample_magnets(np.random.default_rng(seed), like)


def gaps(p: Magnets) -> np.ndarray:
    track = np.array(simulate_magnets(p))
    return p.sign * (track[:, 1] - track[:, 0]) - BAR[0] / 2 - p.free_half


@pytest.mark.parametrize("name", KINDS)
def test_takes_are_reproducible_and_take_two_is_near(name: str) -> None:
    for seed in SEEDS:
        one, two = scene(name, seed).render(1, "center", 32), scene(name, seed).render(2, "center", 32)
        assert one.shape == (NUM_FRAMES, 32, 32, 3) and one.dtype == np.uint8
        assert np.array_equal(one, scene(name, seed).render(1, "center", 32)) and not np.array_equal(one, two)
        assert np.abs(one.astype(int) - two).mean() < 6.0
        change = np.abs(np.diff(one.astype(int), axis=0)).max(axis=(1, 2, 3)) > 20
        assert change[: SWITCH - 1].sum() > 8 and change[SWITCH:].sum() > 6


@pytest.mark.parametrize("name", KINDS)
def test_plans_are_ordered_and_small(name: str) -> None:
    for seed in SEEDS:
        plan = scene(name, seed).truth
        times = [event.t for event in plan.events]
        assert 1 <= len(times) <= 4 and times == sorted(times) and times[0] >= 0.0 and times[-1] <= 5.0
        words = [w for o in plan.objects for w in (o.name, o.trait)] + [e.what for e in plan.events]
        words += [w for m in plan.motion for w in (m.object, m.direction, m.speed)] + list(plan.still)
        assert all(re.fullmatch(r"[a-z ]+", word) for word in words)
        assert len(plan.motion) <= 2 and len(plan.rest) <= 3


def test_both_kinds_share_a_brief_that_gives_nothing_away() -> None:
    briefs = {scene(name, seed).brief for name in KINDS for seed in SEEDS}
    assert len(briefs) == 1
    assert not set(SPOILERS) & set(re.findall(r"[a-z]+", briefs.pop().lower()))


def test_the_free_body_waits_until_the_force_overcomes_friction() -> None:
    for seed in range(20):
        for like in (False, True):
            p = params(seed, like)
            track = np.array(simulate_magnets(p))
            far = gaps(p) > REACH + 0.002
            before = np.cumprod(far).astype(bool)
            assert before[:SWITCH].all()
            assert np.abs(track[before, 1] - p.free_x).max() < 1e-9


def test_unlike_poles_end_in_contact_and_like_poles_never_touch() -> None:
    for seed in range(20):
        drawn_in, pushed = gaps(params(seed, False)), gaps(params(seed, True))
        assert drawn_in.min() > -1e-9 and drawn_in[-1] == pytest.approx(0.0, abs=1e-9)
        assert pushed.min() > 0.02


def test_the_poles_alone_decide_the_direction_of_the_free_magnet() -> None:
    for seed in range(20):
        like = replace(params(seed, True), sign=1.0, free_x=0.62)
        unlike = replace(like, like=False)
        start = SWITCH + int(np.ceil(like.near_s * 8)) + 1
        assert np.array(simulate_magnets(like))[start + 5, 1] > 0.62
        assert np.array(simulate_magnets(unlike))[start + 1, 1] < 0.62
        facing = [
            obj.trait.split()[1] for obj in magnets.describe_magnets(like, simulate_magnets(like))[1].objects
        ]
        assert facing[0] == facing[1]


def test_the_mover_stops_at_its_stop_and_the_plan_says_when() -> None:
    for seed in range(20):
        p = params(seed, True)
        states = simulate_magnets(p)
        plan = magnets.describe_magnets(p, states)[1]
        if p.stop_s > 5.0:
            assert plan.rest[0].t is None and "stops" not in plan.events[-1].what
            continue
        assert plan.rest[0].t == pytest.approx(p.stop_s, abs=0.2)
        assert states[-1][0] == pytest.approx(p.mover_x(p.stop_s))
