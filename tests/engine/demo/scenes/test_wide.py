"""The wide world: every kind's promises, its labels, and that seeds decide what its brief leaves out."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scene_contract import DIRECTIONS, SPEEDS

from engine.demo.scenes import PLAIN, WIDE, all_kinds, choose_kinds, make_scene
from engine.demo.scenes.base import FAILURE_TYPES, NUM_FRAMES, SWITCH, Kind, Labels, Scene
from engine.demo.scenes.wide import (
    cascade,
    compasses,
    eclipse,
    fluids,
    hammer,
    magnets,
    optics,
    pillars,
    props,
    rail,
    ramp,
    thermo,
)
from engine.errors import ConfigError
from engine.loop.prompting import compile_prompt

KINDS = all_kinds(WIDE)
SPOILERS = """felt clay rubber wooden steel cork copper iron glass north south loaded empty hits falls
sinks floats sticks stops lifts rises equal two four five six seven misses"""
BRIEF_COUNTS = {"two", "three"}  # of apparatus that stands there from the start: two clamps, two posts


def scene(kind: Kind, seed: int) -> Scene:
    return make_scene(seed, [kind])


def named(name: str) -> Kind:
    return choose_kinds([name], WIDE)[0]


def test_three_kinds_in_each_of_five_categories_with_names_of_their_own() -> None:
    categories = [kind.category for kind in KINDS]
    assert {category: categories.count(category) for category in categories} == dict.fromkeys(categories, 3)
    assert set(categories) == {kind.category for kind in all_kinds(PLAIN)} and len(set(categories)) == 5
    names = [kind.name for kind in (*KINDS, *all_kinds(PLAIN))]
    assert len(set(names)) == len(names) and not any("_" in name for name in names)


def test_an_unknown_world_is_named() -> None:
    with pytest.raises(ConfigError, match="nearest: wide"):
        all_kinds("wides")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_takes(kind: Kind) -> None:
    """Equal seeds give equal pictures; take 2 is near take 1 but not equal to it; the answer moves."""
    one, two = scene(kind, 1).render(1, "center", 32), scene(kind, 1).render(2, "center", 32)
    assert one.shape == (NUM_FRAMES, 32, 32, 3) and one.dtype == np.uint8
    assert np.array_equal(one, scene(kind, 1).render(1, "center", 32))
    assert not np.array_equal(one, two) and np.abs(one.astype(int) - two).mean() < 4.0
    assert np.abs(np.diff(one[SWITCH - 1 :].astype(int), axis=0)).max() > 60


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_plans(kind: Kind) -> None:
    """The contract of all scenes, with more events: chains and two interactions in a row take more words."""
    outcomes = set()
    for seed in range(8):
        one = scene(kind, seed)
        states = kind.simulate(one.params)
        brief, plan = kind.describe(one.params, states)
        times = [event.t for event in plan.events]
        assert 1 <= len(times) <= 6 and times == sorted(times) and 0.0 <= times[0] <= times[-1] <= 5.0
        assert {m.direction for m in plan.motion} <= DIRECTIONS and {m.speed for m in plan.motion} <= SPEEDS
        assert all(rest.t is None or 0.0 <= rest.t <= 5.0 for rest in plan.rest)
        text = compile_prompt(brief, plan)
        assert re.fullmatch(r"[A-Za-z0-9 .,]+", text), text
        words = set(re.findall(r"[a-z]+", brief.lower()))
        assert not words & (DIRECTIONS | SPEEDS | set(SPOILERS.split())) - BRIEF_COUNTS, brief
        assert brief.endswith(props.CAMERA)
        outcomes.add((plan.events, plan.rest))
        label = kind.label
        assert label is not None
        found = label(one.params, states)
        assert set(found.failures) <= set(FAILURE_TYPES) and not (found.simple and len(found.failures) > 2)
    assert len(outcomes) >= 7  # what happens differs from seed to seed, under one brief
    assert len({scene(kind, seed).brief for seed in range(3)}) == 1


def test_scenes_travel_to_workers() -> None:
    one = make_scene(3, KINDS)
    copied = pickle.loads(pickle.dumps(one))
    assert copied.kind is one.kind and copied.params == one.params


def test_every_label_is_given_and_none_to_all() -> None:
    found = [make_scene(seed, KINDS).labels for seed in range(60)]
    labels = [entry for entry in found if entry is not None]
    assert len(labels) == 60
    for failure in FAILURE_TYPES:
        assert 6 <= sum(failure in entry.failures for entry in labels) <= 50, failure
    assert 6 <= sum(entry.simple for entry in labels) <= 30


def test_what_is_called_simple() -> None:
    plain: dict[str, Any] = {
        "speed": 0.1,
        "movers": 1,
        "interactions": 1,
        "alike": False,
        "soft": False,
        "parts": 0,
    }
    assert props.labels_of(**plain) == Labels(simple=True, failures=())
    for change in ({"speed": 0.3}, {"movers": 2}, {"interactions": 2}, {"parts": 5}):
        assert not props.labels_of(**plain | change).simple
    everything = props.labels_of(speed=1.0, movers=3, interactions=2, alike=True, soft=True, parts=5)
    assert everything == Labels(simple=False, failures=FAILURE_TYPES)


# What is physics, is so.


def test_an_elastic_impact_keeps_momentum_and_energy_and_a_plastic_one_momentum() -> None:
    quick = rail.Body(x=0.1, v=0.3, mass=2.0, half=0.05, bounce=1.0)
    slow = rail.Body(x=0.6, v=0.0, mass=1.0, half=0.05, bounce=1.0)
    free = rail.Rail(slowing=0.0, walls=(None, None), wall_bounce=0.0)
    for bounce in (1.0, 0.0):
        motion = rail.run([quick, replace(slow, bounce=bounce)], free)
        v = (motion.x[-1] - motion.x[-2]) * 8
        assert 2.0 * v[0] + v[1] == pytest.approx(0.6, abs=1e-9)
        if bounce:
            assert (v[0], v[1]) == pytest.approx((0.1, 0.4), abs=1e-9)
        else:
            assert v[0] == pytest.approx(0.2, abs=1e-9) and v[0] == pytest.approx(v[1], abs=1e-9)
        assert [contact[1:] for contact in motion.contacts] == [(0, 1)]


def test_a_ball_that_rolls_is_slowed_evenly_and_a_wall_sends_it_back() -> None:
    ball = rail.Body(x=0.2, v=0.4, mass=1.0, half=0.05, bounce=1.0)
    motion = rail.run([ball], rail.Rail(slowing=0.05, walls=(None, 0.9), wall_bounce=0.5))
    x = motion.x[:, 0]
    assert x[8] == pytest.approx(0.2 + 0.4 - 0.05 / 2, abs=1e-3)
    ((t, _, wall),) = motion.contacts
    assert wall == rail.RIGHT_WALL and x.max() <= 0.85 + 1e-9
    before = 0.4 - 0.05 * (t + 3.0)
    after = -(x[int(t * 8) + 26] - x[int(t * 8) + 25]) * 8
    assert after == pytest.approx(0.5 * before, abs=0.03)


def test_cork_floats_and_steel_sinks_and_vessels_level_out_keeping_their_water() -> None:
    held = fluids.Drop(look="cork", x=0.3, below=True, release_s=-2.0)
    assert fluids.fall(held, "")[-1] < fluids.SURFACE_Y + 0.05
    sunk = fluids.Drop(look="steel", x=0.3, below=False, release_s=-2.0)
    assert fluids.fall(sunk, "")[-1] == pytest.approx(fluids.BED_Y - fluids.RADIUS)
    vessels = named("joined-vessels").sample(np.random.default_rng(4))
    states = np.array(fluids.simulate_vessels(replace(vessels, open_s=-2.0, flow=0.1)))[:, 1:]
    volumes = states @ np.array(vessels.widths)
    assert np.ptp(volumes) < 1e-9 and states[-1, 0] == pytest.approx(states[-1, 1], abs=1e-6)


def test_like_poles_push_before_they_touch_and_unlike_ones_stick() -> None:
    carts = named("magnet-carts").sample(np.random.default_rng(0))
    carts = replace(carts, mover=0, loads=(False, False), walls=("", ""), speed=0.2, near_s=1.0, wait_x=0.6)
    pushed = magnets.move_carts(replace(carts, pull=False, steel=False))
    assert pushed.contacts == () and pushed.x[-1, 1] > 0.65
    stuck = magnets.move_carts(replace(carts, pull=True))
    assert stuck.x[-1, 1] - stuck.x[-1, 0] == pytest.approx(2 * magnets.HALF, abs=0.01)


def test_the_crane_lifts_steel_alone_and_lets_go_when_the_current_ends() -> None:
    crane = named("magnet-crane").sample(np.random.default_rng(0))
    crane = replace(crane, sign=1.0, speed=0.16, start_x=-0.1, stop_x=0.8, off_s=1.6)
    wood = magnets.simulate_crane(replace(crane, steel=(False, False, False)))
    assert {state[3] for state in wood} == {-1}
    states = magnets.simulate_crane(replace(crane, steel=(False, True, False)))
    assert {state[3] for state in states} == {-1, 1}
    assert states[-1][2][1][1] == pytest.approx(props.FLOOR_Y - magnets.THING[1] / 2, abs=0.01)
    assert states[-1][2][1][0] > crane.xs[1] + 0.05


def test_heat_goes_faster_through_copper_and_drops_fall_in_order_from_the_flame() -> None:
    drops = named("wax-drops").sample(np.random.default_rng(0))
    fallen = {}
    for material in ("copper", "glass"):
        one = replace(
            drops, material=material, diffusivity=thermo.DIFFUSIVITY[material][0], lit_s=-2.0, out_s=9.0
        )
        ys = np.array([state[2] for state in thermo.simulate_drops(one)])
        began = [int(np.argmax(column > column[0])) if np.ptp(column) else NUM_FRAMES for column in ys.T]
        assert began == sorted(began)
        fallen[material] = sum(start < NUM_FRAMES for start in began)
    assert fallen["copper"] > fallen["glass"] >= 1


def test_the_piston_follows_its_flame_and_a_high_one_loses_its_ball() -> None:
    piston = named("piston").sample(np.random.default_rng(0))
    piston = replace(piston, on_s=-1.0, off_s=3.0, balance=0.6, shelf_side=1.0)
    states = thermo.simulate_piston(piston)
    heights = np.array([state[1] for state in states])
    assert heights.max() == heights[SWITCH + 24] > thermo.SHELF and heights[-1] < heights.max()
    assert states[-1][2][0] > thermo.WALLS[1]
    caught = thermo.simulate_piston(replace(piston, on_s=0.0, off_s=1.1, balance=0.61))
    assert not thermo.is_outside(caught[-1][2][0]) and caught[-1][2][0] > sum(thermo.WALLS) / 2 + 0.05
    low = thermo.simulate_piston(replace(piston, balance=0.3))
    assert low[-1][2][0] == pytest.approx(sum(thermo.WALLS) / 2)


def test_the_searchlight_lights_what_it_meets_and_the_lamp_comes_back_as_its_stop_says() -> None:
    light = named("searchlight").sample(np.random.default_rng(0))
    light = replace(light, angles=(-0.8, 0.0, 0.8), start=0.4, rate=0.4, begin_s=-1.0, end_s=9.0)
    stays = optics.simulate_searchlight(replace(light, returns=False))
    assert stays[-1][2] == (False, False, True) and stays[-1][1] == pytest.approx(optics.STOPS)
    back = optics.simulate_searchlight(replace(light, returns=True))
    assert back[-1][2] == (False, True, True) and back[-1][1] < 0.0
    lamp = named("two-shadows").sample(np.random.default_rng(0))
    lamp = replace(lamp, stops=(0.1, 0.9), start_x=0.5, velocity=0.2)
    ends = [optics.simulate_lamp(replace(lamp, bounce=bounce))[-1][1] for bounce in (0.0, 0.5, 1.0)]
    assert ends == pytest.approx([0.9, 0.31, 0.47], abs=0.01)  # 7.875 s, the first stop after 2 s


def test_the_row_falls_until_its_gap_and_not_before_the_hammer() -> None:
    row = named("hammer-row").sample(np.random.default_rng(2))
    row = replace(row, stop="gap", count=6, before=4, pitch=0.064, target=False, release_s=0.0, sign=1.0)
    states = hammer.simulate_row(row)
    angles = np.abs([[block[2] for block in state[2]] for state in states])
    assert (angles[SWITCH] < 0.05).all()
    assert (angles[-1, :4] > 0.5).all() and (angles[-1, 4:] < 0.1).all()


def test_a_ball_from_higher_up_flies_farther_and_one_that_meets_the_mouth_stays_in_the_bucket() -> None:
    ball = named("ramp-and-bucket").sample(np.random.default_rng(0))
    ball = replace(ball, sign=1.0, lip_x=0.35, bucket_x=5.0, release_s=-1.0, material="clay")
    ends = [ramp.simulate_ramp(replace(ball, wait=wait))[-1][1] for wait in (0.15, 0.25, 0.35)]
    assert ends == sorted(ends) and ends[-1] - ends[0] > 0.05
    states = ramp.simulate_ramp(replace(ball, wait=0.25, bucket_x=ends[1]))
    assert states[-1][4] and abs(states[-1][1] - ends[1]) < ramp.BUCKET[0] / 2
    high = replace(ball, material="rubber", wait=0.25)
    ys = np.array([state[2] for state in ramp.simulate_ramp(high)])
    assert ys[30:].min() < ramp.FLOOR_Y - ramp.RADIUS - 0.05  # it bounces


def test_water_that_comes_is_in_the_cups_until_they_spill() -> None:
    cups = named("two-cups").sample(np.random.default_rng(1))
    cups = replace(cups, flow=0.015, widths=(0.25, 0.35), filled=(0.5, 0.1), open_s=-2.0, close_s=4.0)
    states = cascade.simulate_cascade(cups)
    volumes = np.array([state[1:3] for state in states]) @ np.array(cups.widths)
    came = 0.015 * np.clip(props.frame_times() + 2.0, 0.0, 6.0)
    full = 0.25 * cascade.HEIGHTS[0]
    assert np.allclose(volumes - volumes[0], came) and states[-1][1] == pytest.approx(cascade.HEIGHTS[0])
    spills = [state[4] for state in states]
    assert spills.index(True) == np.flatnonzero(0.5 * full + came >= full - 1e-12)[0] and not spills[-1]


def test_a_shadow_is_as_much_larger_as_the_lamp_is_nearer() -> None:
    disc = named("disc-and-screen").sample(np.random.default_rng(0))
    disc = replace(disc, radius=0.08, offset=0.0, stops=(0.2, 0.6), start=0.3, velocity=0.05, bounce=0.0)
    for _, distance, (top, bottom), dark in eclipse.simulate_eclipse(disc):
        assert bottom - top == pytest.approx(0.16 * (eclipse.SCREEN - eclipse.LAMP) / distance)
        assert dark == tuple(abs(place) < bottom for place in eclipse.SENSORS)


def test_a_needle_turns_towards_a_south_pole_and_away_from_a_north_pole() -> None:
    row = named("compass-row").sample(np.random.default_rng(0))
    row = replace(row, sign=1.0, speed=0.2, start_x=-0.3, stop_x=0.31, returns=False)
    needles = {pole: compasses.simulate_compasses(replace(row, pole=pole))[-1][2] for pole in "NS"}
    middle, last = 2, 4  # to the right of the magnet, near and far
    assert needles["S"][middle] < -0.4 and needles["N"][middle] > 0.4
    assert abs(needles["S"][last]) < abs(needles["S"][middle])


def test_the_plank_sinks_and_the_ball_rolls_where_it_melts_faster() -> None:
    ice = named("ice-pillars").sample(np.random.default_rng(0))
    ice = replace(ice, heights=(0.3, 0.3), on_s=-1.0, ball_at=0.0)
    for rates, sign in (((0.02, 0.1), 1.0), ((0.1, 0.02), -1.0)):
        states = pillars.simulate_pillars(replace(ice, rates=rates))
        assert sign * (states[-1][3][0] - 0.5) > 0.3
        assert states[-1][1] == pytest.approx(max(0.3 - rates[0] * 5.875, 0.0), abs=1e-9)
    level = pillars.simulate_pillars(replace(ice, rates=(0.05, 0.05)))
    assert level[-1][3][0] == pytest.approx(0.5)
