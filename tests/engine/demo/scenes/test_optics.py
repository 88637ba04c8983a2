"""Shadows move against their lamp, by similar triangles; reflections mirror the cart, within the frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scene_contract import check_plans, check_takes, check_variety, sampled

from engine.demo.scenes import optics
from engine.demo.scenes.canvas import COLORS
from engine.demo.scenes.optics import BLOCK_WIDTH, CART_HALF, Mirror, Shadow

KINDS = {kind.name: kind for kind in optics.KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_takes_are_reproducible_and_move(name: str) -> None:
    check_takes(KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_plans_keep_the_contract(name: str) -> None:
    check_plans(
        KINDS[name], [*COLORS, "tall", "low", "long", "short", "away", "towards", "mat", "post", "stop"]
    )
    check_variety(KINDS[name])


def test_the_shadow_moves_against_the_lamp() -> None:
    for p in sampled(KINDS["moving-shadow"]):
        track = np.array(optics.simulate_shadow(p))
        lamp, shadow = np.diff(track[:, 0]), np.diff(track[:, 1:], axis=0)
        assert (lamp * p.sign >= 0).all() and (shadow * p.sign <= 1e-12).all()
        assert np.abs(track[-1, 1:] - track[0, 1:]).max() > 0.1
        assert track[:, 0].min() > 0.1 and track[:, 0].max() < 0.9
        motion = KINDS["moving-shadow"].describe(p, optics.simulate_shadow(p))[1].motion
        assert {motion[0].direction, motion[1].direction} == {"left", "right"}


def lamp(**changes: object) -> Shadow:
    base = Shadow(
        room=0,
        color="red",
        sign=1.0,
        speed=0.14,
        begin_s=-2.5,
        start_x=0.14,
        travel=0.6,
        block_x=0.5,
        block="tall",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_shadow_length_follows_similar_triangles() -> None:
    p = lamp()
    lamp_x, left, right = optics.simulate_shadow(p)[0]
    edge = p.block_x + BLOCK_WIDTH / 2
    height, block = optics.GROUND_Y - optics.LAMP_Y, optics.BLOCK_HEIGHTS[p.block]
    assert right - edge == pytest.approx((edge - lamp_x) * block / (height - block))
    assert left == p.block_x - BLOCK_WIDTH / 2
    low = optics.simulate_shadow(lamp(block="low"))[0]
    assert low[2] - edge < 0.6 * (right - edge)
    outline = np.array(optics.shadow_polygon(p, lamp_x))
    assert outline[:, 0].max() == pytest.approx(right, abs=1e-5)


def test_the_lamp_stops_at_its_end_stop() -> None:
    p = lamp()
    states = optics.simulate_shadow(p)
    assert states[-1][0] == pytest.approx(p.start_x + p.travel)
    plan = optics.describe_shadow(p, states)[1]
    stop_s = p.begin_s + p.travel / p.speed
    assert [rest.t for rest in plan.rest] == pytest.approx([stop_s, stop_s], abs=0.2)
    assert plan.events[0].what == "the lamp passes over the red block"
    assert plan.events[-1].what == "the lamp hits the end stop and the shadow is long on the left"
    far = lamp(speed=0.08, travel=0.7)
    assert optics.describe_shadow(far, optics.simulate_shadow(far))[1].rest[0].t is None


def cart(**changes: object) -> Mirror:
    base = Mirror(
        room=0, color="red", mirror=1.0, approach=True, speed=0.07, begin_s=-2.5, distance=0.4, end="free",
        end_distance=0.2,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def test_cart_and_image_are_equally_far_from_the_mirror() -> None:
    for p in sampled(KINDS["mirror"], 12):
        plane = optics.place(p, 0.0)
        assert plane == pytest.approx(optics.mirror_polygon(p)[0][0])
        for (distance,) in optics.simulate_mirror(p)[::8]:
            assert optics.place(p, distance) - plane == pytest.approx(plane - optics.place(p, -distance))
        motion = optics.describe_mirror(p, optics.simulate_mirror(p))[1].motion
        assert {motion[0].direction, motion[1].direction} == {"left", "right"}


def test_the_cart_never_passes_mirror_or_post() -> None:
    for p in sampled(KINDS["mirror"]):
        distance = np.array(optics.simulate_mirror(p))[:, 0]
        sign = -1.0 if p.approach else 1.0
        assert (np.diff(distance) * sign >= -1e-12).all() and distance.min() >= CART_HALF - 1e-12
        if p.end == "post":
            assert distance[-1] * sign <= p.end_distance * sign + 1e-12


def test_the_cart_meets_its_reflection_stops_at_the_post_or_brakes_on_the_mat() -> None:
    meets = optics.describe_mirror(cart(), optics.simulate_mirror(cart()))[1]
    assert meets.events[-1].what == "the red cart meets its reflection"
    assert meets.rest[0].t == pytest.approx((0.4 - CART_HALF) / 0.07 - 2.5, abs=0.3)
    post = cart(end="post")
    assert (
        optics.describe_mirror(post, optics.simulate_mirror(post))[1]
        .events[0]
        .what.endswith("post and stops")
    )
    mat = cart(end="mat")
    rolled = mat.end_distance - optics.simulate_mirror(mat)[-1][0]
    assert rolled == pytest.approx(mat.speed**2 / (2 * optics.MAT_DRAG), abs=1e-9)  # v^2 = 2 a s


def test_the_reflection_is_clipped_by_the_frame() -> None:
    p = cart(distance=0.43, begin_s=-2.9)
    backdrop = optics.backdrop_mirror(p, 64)
    near, far = backdrop.copy(), backdrop.copy()
    optics.draw_mirror(near, p, (0.2,))
    optics.draw_mirror(far, p, (0.8,))  # its image would lie beyond the mirror's near edge
    right = slice(35, 62)
    assert np.abs(near.finish("center")[:, right].astype(int) - far.finish("center")[:, right]).max() > 80
    empty = backdrop.copy()
    optics.draw_mirror(empty, p, (5.0,))
    assert np.array_equal(far.finish("center")[:, right], empty.finish("center")[:, right])
