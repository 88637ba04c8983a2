"""The filled glass conserves volume and stops at its mark; the dye cloud obeys advection and diffusion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scene_contract import check_plans, check_takes, check_variety, sampled

from engine.demo.scenes import fluids
from engine.demo.scenes.canvas import COLORS, Canvas
from engine.demo.scenes.fluids import BED_Y, GLASS_HEIGHT, SURFACE_Y, Dye, Filling

KINDS = {kind.name: kind for kind in fluids.KINDS}
X = np.linspace(-2.0, 3.0, 1001)
Y = np.linspace(SURFACE_Y, BED_Y, 201)


@pytest.mark.parametrize("name", KINDS)
def test_takes_are_reproducible_and_move(name: str) -> None:
    check_takes(KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_plans_keep_the_contract(name: str) -> None:
    check_plans(KINDS[name], [*COLORS, "full", "mark", "overflows", "pale", "dark", "drifts"])
    check_variety(KINDS[name])


def glass(rate: float, mark: float | None, level: float = 0.1) -> Filling:
    return Filling(room=0, color="blue", rate=rate, open_s=-2.5, level=level, mark=mark)


def test_the_level_never_falls_and_rises_at_the_flow_rate() -> None:
    for p in sampled(KINDS["filling-glass"]):
        level = np.array(fluids.simulate_filling(p), np.float64)[:, 0]
        assert (np.diff(level) >= 0).all() and level.max() <= GLASS_HEIGHT
        assert level[18] - level[10] == pytest.approx(p.rate, rel=1e-6)


def test_the_tap_closes_at_the_mark_and_the_plan_knows_when() -> None:
    for mark in (0.25, 0.35, 0.45):
        p = glass(0.07, mark)
        states = fluids.simulate_filling(p)
        assert states[-1][0] == pytest.approx(mark, abs=0.004)
        assert not states[-1][4] and states[-1][3] == 0.0
        plan = fluids.describe_filling(p, states)[1]
        poured_s = (mark - p.level) / p.rate - 2.5
        assert plan.rest[0].t == pytest.approx(poured_s, abs=0.5)
        assert plan.events[0].what == "the blue liquid reaches the mark and the tap closes"


def test_a_glass_without_a_mark_overflows_or_still_fills() -> None:
    over = fluids.simulate_filling(glass(0.1, None))
    assert over[-1][0] == GLASS_HEIGHT
    # what no longer fits into the glass is spilled: nothing is lost
    assert over[-1][3] == pytest.approx(0.1 + 0.1 * (over_time(over)) - GLASS_HEIGHT, abs=0.01)
    plan = fluids.describe_filling(glass(0.1, None), over)[1]
    assert [event.what for event in plan.events][-1] == "the blue liquid runs over onto the table"
    slow = glass(0.035, None)
    slow_plan = fluids.describe_filling(slow, fluids.simulate_filling(slow))[1]
    assert slow_plan.rest[0].t is None and "still rises" in slow_plan.events[-1].what


def over_time(states: list[tuple[float, float, float, float, bool]]) -> float:
    """Seconds for which the jet has fed the glass, up to the last frame."""
    levels = np.array(states, np.float64)[:, 0]
    return float(len(levels) - 1 - np.flatnonzero(np.diff(levels) > 0)[0]) / 8


def dye(drift: float, diffusivity: float) -> Dye:
    return Dye(room=0, color="red", drop_x=0.5, release_s=-2.5, drift=drift, diffusivity=diffusivity)


def test_dye_is_conserved_while_it_thins_out() -> None:
    states = fluids.simulate_dye(dye(0.05, 0.003))
    totals = [fluids.absorbance(state, X, Y).sum() for state in states[16:]]
    assert np.ptp(totals) / np.mean(totals) < 0.02
    peaks = [fluids.absorbance(state, X, Y).max() for state in states[16:]]
    assert (np.diff(peaks) < 0).all()


def test_dye_variance_grows_linearly_and_the_cloud_drifts_with_the_water() -> None:
    for p in sampled(KINDS["dye-spreading"], 12):
        track = np.array(fluids.simulate_dye(p))[16:]
        assert np.diff(track[:, 3]) == pytest.approx(2 * p.diffusivity / 8)
        assert np.diff(track[:, 1]) == pytest.approx(p.drift / 8)


def test_the_plan_says_where_the_dye_ends() -> None:
    for drift, place in ((0.13, "right"), (-0.13, "left")):
        p = dye(drift, 0.0005)
        plan = fluids.describe_dye(p, fluids.simulate_dye(p))[1]
        assert plan.events[-1].what == f"the red dye leaves the picture on the {place}"
    still = dye(0.0, 0.0005)
    plan = fluids.describe_dye(still, fluids.simulate_dye(still))[1]
    assert plan.events[-1].what == "the red dye is dark and narrow in the middle"
    assert [motion.direction for motion in plan.motion] == ["outward"]


def test_the_cloud_is_drawn_in_its_own_colour() -> None:
    p = replace(dye(0.0, 0.003), color="blue")
    canvas: Canvas = fluids.backdrop_dye(p, 64)
    fluids.draw_dye(canvas, p, fluids.simulate_dye(p)[30])
    red, _, blue = canvas.finish("center")[40, 32].astype(int)
    assert blue - red > 60
