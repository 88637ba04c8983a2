"""Melting keeps the water's mass and shrinks the edge evenly; the bar obeys the heat equation."""

from __future__ import annotations

from math import erfc, sqrt

import numpy as np
import pytest
from scene_contract import check_plans, check_takes, check_variety, sampled

from engine.demo.scenes import thermo
from engine.demo.scenes.thermo import Heating, Melting

KINDS = {kind.name: kind for kind in thermo.KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_takes_are_reproducible_and_move(name: str) -> None:
    check_takes(KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_plans_keep_the_contract(name: str) -> None:
    check_plans(KINDS[name], ["low", "high", "large", "small", "copper", "iron", "glass", "gone", "puddle"])
    check_variety(KINDS[name])


def ice(power: str, rate: float, edge: float = 0.4) -> Melting:
    return Melting(room=0, edge=edge, power=power, rate=rate, on_s=-2.0, cube_x=0.5)


def test_ice_shrinks_and_the_puddle_holds_its_water() -> None:
    for p in sampled(KINDS["melting-ice"]):
        track = np.array(thermo.simulate_melting(p), np.float64)
        assert (np.diff(track[:, 0]) <= 0).all() and (np.diff(track[:, 1]) >= 0).all()
        water = np.pi * thermo.FILM_DEPTH * track[:, 1] ** 2
        assert water + thermo.ICE_DENSITY * track[:, 0] ** 3 == pytest.approx(thermo.ICE_DENSITY * p.edge**3)
        assert track[:, 1].max() < thermo.PLATE_HALF


def test_the_edge_shrinks_at_a_constant_rate_from_the_switching_on() -> None:
    edge = np.array(thermo.simulate_melting(ice("medium", 0.045)), np.float64)[:, 0]
    assert (edge[:9] == 0.4).all()
    assert np.diff(edge[8:]) == pytest.approx(-0.045 / 8)


def test_the_plan_says_what_is_left_of_the_ice() -> None:
    high, low = ice("high", 0.08), ice("low", 0.022)
    melted = thermo.describe_melting(high, thermo.simulate_melting(high))[1]
    assert [rest.t for rest in melted.rest] == [3.0, 3.0]
    assert melted.events[-1].what == "the ice cube is gone and the puddle is wide"
    kept = thermo.describe_melting(low, thermo.simulate_melting(low))[1]
    assert kept.rest[0].t is None and kept.events[-1].what.startswith("some ice is left")
    assert (melted.motion[0].speed, kept.motion[0].speed) == ("fast", "slow")


def bar(material: str, diffusivity: float, end: float = -1.0) -> Heating:
    return Heating(room=0, material=material, end=end, diffusivity=diffusivity, lit_s=-2.0)


def test_the_bar_agrees_with_the_analytic_half_space() -> None:
    """T = erfc(x / (2 sqrt(a t))) while the far end is cold; cooling takes two percent a second."""
    p, seconds = bar("iron", 0.01), 2.0
    heat, _ = thermo.simulate_heating(p)[8 + round(seconds * 8)]
    cell = 2 * thermo.BAR_HALF / thermo.CELLS
    exact = [erfc((index + 1) * cell / (2 * sqrt(0.01 * seconds))) for index in range(thermo.CELLS)]
    assert np.abs(heat - exact).max() < 0.03


def test_heat_stays_within_bounds_and_falls_along_the_bar() -> None:
    for p in sampled(KINDS["heating-bar"], 12):
        heat = np.array([state[0] for state in thermo.simulate_heating(p)])
        assert heat.min() >= 0.0 and heat.max() <= 1.0
        assert (np.diff(heat, axis=1) <= 1e-12).all()
        front = thermo.glow_front(thermo.simulate_heating(p))
        assert (np.diff(front) >= -1e-9).all() and front[0] == 0.0


def test_copper_is_faster_than_iron_and_glass_hardly_glows() -> None:
    ends = {}
    for material, (low, high) in thermo.DIFFUSIVITY.items():
        p = bar(material, (low + high) / 2)
        ends[material] = float(thermo.glow_front(thermo.simulate_heating(p))[-1])
    assert ends["copper"] == 1.0 and 0.4 < ends["iron"] < 0.9 and ends["glass"] < 0.25


def test_the_glow_starts_at_the_flame_and_runs_away_from_it() -> None:
    for end, hot, cold in ((-1.0, "left", "right"), (1.0, "right", "left")):
        p = bar("copper", 0.043, end)
        states = thermo.simulate_heating(p)
        canvas = thermo.backdrop_heating(p, 64)
        thermo.draw_heating(canvas, p, states[24])
        row = canvas.finish("center")[round(thermo.BAR_Y * 64)].astype(int)
        warm = row[:, 0] - row[:, 2]
        assert (warm[8:20].mean() > warm[44:56].mean()) == (end < 0)
        plan = thermo.describe_heating(p, states)[1]
        assert plan.motion[0].direction == cold and plan.objects[1].trait == hot
        assert plan.events[-1].what == f"the glow reaches the {cold} end" and plan.rest[0].t is not None
