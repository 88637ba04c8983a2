"""Two balls, a dropped ball: reproducible pictures, plans that agree with the trajectory, collision laws."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from engine.demo.scenes import collisions
from engine.demo.scenes.base import NUM_FRAMES, SWITCH, Kind, Scene
from engine.demo.scenes.collisions import SIZES, TwoBalls, ball_reach, bounce_times_s, velocities_after

SEEDS = range(6)
KINDS = {kind.name: kind for kind in collisions.KINDS}
SPOILERS = (
    "left",
    "right",
    "slow",
    "medium",
    "fast",
    "high",
    "low",
    "clay",
    "rubber",
    "stick",
    "rest",
    "big",
)


def scene(kind: Kind, seed: int) -> Scene:
    return Scene(kind, seed, kind.sample(np.random.default_rng(seed)))


def drop(material: str, seed: int) -> collisions.BallDrop:
    params = collisions.sample_ball_drop(np.random.default_rng(seed))
    return replace(params, material=material, release_s=-0.85)


@pytest.mark.parametrize("name", KINDS)
def test_takes_are_reproducible_and_take_two_is_near(name: str) -> None:
    moving = np.zeros(2, int)
    for seed in SEEDS:
        one = scene(KINDS[name], seed).render(1, "center", 32)
        two = scene(KINDS[name], seed).render(2, "center", 32)
        assert one.shape == (NUM_FRAMES, 32, 32, 3) and one.dtype == np.uint8
        assert np.array_equal(one, scene(KINDS[name], seed).render(1, "center", 32))
        assert not np.array_equal(one, two)
        assert np.abs(one.astype(int) - two).mean() < 6.0
        change = np.abs(np.diff(one.astype(int), axis=0)).max(axis=(1, 2, 3)) > 30
        moving += (change[: SWITCH - 1].sum() >= 5, change[SWITCH:].sum() >= 3)
    assert (moving >= len(SEEDS) - 1).all()


@pytest.mark.parametrize("name", KINDS)
def test_plans_are_ordered_and_small_and_briefs_give_nothing_away(name: str) -> None:
    for seed in SEEDS:
        plan, brief = scene(KINDS[name], seed).truth, scene(KINDS[name], seed).brief
        times = [event.t for event in plan.events]
        assert 1 <= len(times) <= 4 and times == sorted(times) and times[0] >= 0.0 and times[-1] <= 5.0
        words = [w for o in plan.objects for w in (o.name, o.trait)] + [e.what for e in plan.events]
        words += [w for m in plan.motion for w in (m.object, m.direction, m.speed)] + list(plan.still)
        assert all(re.fullmatch(r"[a-z ]+", word) for word in words)
        assert len(plan.motion) <= 2 and len(plan.rest) <= 3
        assert not set(SPOILERS) & set(re.findall(r"[a-z]+", brief.lower()))
        assert brief.endswith("Static shot with no camera movement.")


def two_balls(seed: int) -> TwoBalls:
    return collisions.sample_two_balls(np.random.default_rng(seed))


def test_balls_conserve_momentum_and_part_as_their_material_says() -> None:
    for seed in range(40):
        p = two_balls(seed)
        masses = np.array([SIZES[size] ** 3 for size in p.sizes])
        before, after = np.array([p.left_v, p.right_v]), np.array(velocities_after(p))
        assert masses @ before == pytest.approx(masses @ after)
        restitution = collisions.RESTITUTION[p.material]
        assert after[1] - after[0] == pytest.approx(restitution * (before[0] - before[1]))


def test_balls_meet_when_planned_and_never_pass_through_each_other() -> None:
    for seed in range(40):
        p = two_balls(seed)
        track = np.array(collisions.simulate_two_balls(p))
        gap = track[:, 2] - track[:, 0] - ball_reach(p)
        assert gap.min() > -1e-9
        assert abs(int(gap.argmin()) - SWITCH - p.hit_s * 8) <= 1.0 or p.material == "clay"


def test_clay_stays_together_and_rubber_parts() -> None:
    for seed in SEEDS:
        for material, together in (("clay", True), ("rubber", False)):
            p = replace(two_balls(seed), material=material)
            states = collisions.simulate_two_balls(p)
            gap = states[-1][2] - states[-1][0] - ball_reach(p)
            assert (gap < 1e-6) == together
            text = " ".join(event.what for event in collisions.describe_two_balls(p, states)[1].events)
            assert ("stick together" in text) == together


def test_a_bounce_loses_energy_by_the_square_of_the_restitution() -> None:
    p = drop("rubber", 0)
    lifts = np.array([state[1] - p.radius for state in collisions.simulate_ball_drop(p)])
    first = round(bounce_times_s(p, collisions.simulate_ball_drop(p))[0] * 8) + SWITCH
    apex = lifts[first : first + 24].max()
    assert apex == pytest.approx(collisions.BOUNCE["rubber"] ** 2 * p.height, rel=0.05)


def test_rubber_bounces_on_wood_settles_and_clay_stays_where_it_lands() -> None:
    for seed in SEEDS:
        rests = {}
        for material in collisions.BOUNCE:
            p = drop(material, seed)
            states = collisions.simulate_ball_drop(p)
            plan = collisions.describe_ball_drop(p, states)[1]
            rests[material] = plan.rest[0].t
            bounces = sum("bounces" in event.what for event in plan.events)
            assert bounces == min(3, sum(t >= 0 for t in bounce_times_s(p, states))) * (material != "clay")
            if material == "clay":
                assert max(state[1] for state in states[SWITCH + 16 :]) == pytest.approx(p.radius)
        assert rests["rubber"] is None and rests["wooden"] > rests["clay"] + 0.8
