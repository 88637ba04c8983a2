"""Optics scenes: a block's shadow under a moving lamp; a toy cart and its reflection in a mirror.

Geometry only: central projection from a point lamp, reflection at a plane. The table is drawn in a parallel
projection, in which depth moves a point up or down; brightness is not computed from any light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from engine.demo.scenes.base import NUM_FRAMES, SWITCH, Kind, Rng, choice, frame_time_s, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, Color, Point, room, shade
from engine.demo.scenes.rigid import FLOOR_Y, contact_time_s, side, speed_word
from engine.types import (
    ANSWER_SECONDS,
    PhysicsPlan,
    PlanEvent,
    PlanMotion,
    PlanObject,
    PlanRest,
)

CATEGORY: Final = "Optics"
STEEL: Final[Color] = (84, 90, 100)

# ---------------------------------------------------------------- a lamp slides over a block

RAIL_Y: Final = 0.07
LAMP_Y: Final = 0.22  # of the point that shines
LAMP_HALF: Final = 0.085
GROUND_Y: Final = 0.80  # of the block's middle line on the table
TABLE_EDGE_Y: Final = 0.62
BLOCK_WIDTH: Final = 0.17
BLOCK_DEPTH: Final = 0.17
OBLIQUE: Final = 0.6  # screen height per unit of depth
BLOCK_HEIGHTS: Final = {"low": 0.22, "tall": 0.33}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    room: int
    color: str
    sign: float  # direction of the lamp on screen
    speed: float
    begin_s: float  # when the lamp starts
    start_x: float
    travel: float  # from the start to the end stop
    block_x: float
    block: str  # "low" or "tall"


def sample_shadow(rng: Rng) -> Shadow:
    speed = float(choice(rng, rng.uniform(0.075, 0.09), rng.uniform(0.125, 0.15), rng.uniform(0.2, 0.23)))
    sign = float(choice(rng, -1.0, 1.0))
    begin_s = float(rng.uniform(-1.8, -1.6) if speed > 0.175 else rng.uniform(-2.9, -2.5))
    stop_s = float(rng.uniform(0.8, 7.0))
    travel = min(speed * (stop_s - begin_s), float(rng.uniform(0.68, 0.76)))
    slack = 0.76 - travel
    return Shadow(
        room=int(rng.integers(4)),
        color=str(choice(rng, *COLORS)),
        sign=sign,
        speed=speed,
        begin_s=begin_s,
        start_x=0.5 - sign * (0.38 - float(rng.uniform(0.0, slack))),
        travel=travel,
        block_x=float(rng.uniform(0.4, 0.6)),
        block=str(choice(rng, *BLOCK_HEIGHTS)),
    )


def magnification(p: Shadow) -> float:
    """H / (H - h): how far the top of the block is thrown, in its own distances from the lamp's foot."""
    return (GROUND_Y - LAMP_Y) / (GROUND_Y - LAMP_Y - BLOCK_HEIGHTS[p.block])


def simulate_shadow(p: Shadow) -> list[Any]:
    """Per frame: (lamp x, shadow's left end, its right end).

    Similar triangles: a point lamp at height H above the table throws a block edge of height h, at distance d
    from the lamp's foot, to distance d H / (H - h).
    """
    zoom = magnification(p)
    left, right = p.block_x - BLOCK_WIDTH / 2, p.block_x + BLOCK_WIDTH / 2
    states = []
    for frame in range(NUM_FRAMES):
        way = min(max(p.speed * (frame_time_s(frame) - p.begin_s), 0.0), p.travel)
        x = p.start_x + p.sign * way
        states.append((x, min(left, x + (left - x) * zoom), max(right, x + (right - x) * zoom)))
    return states


def describe_shadow(p: Shadow, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array(states)
    rest = rest_time_s(track[:, :1])
    tip_speed = p.speed * (magnification(p) - 1.0)
    over = contact_time_s(-p.sign * (track[:, 0] - p.block_x), 0.0)
    passed = over is not None and p.sign * (track[SWITCH - 1, 0] - p.block_x) < 0
    reach = {-1: p.block_x - track[-1, 1], 1: track[-1, 2] - p.block_x}
    where = max(reach, key=lambda key: reach[key])
    length = "long" if reach[where] - BLOCK_WIDTH / 2 > 0.2 else "short"
    events = []
    if passed and over is not None:
        events.append(PlanEvent(t=over, what=f"the lamp passes over the {p.color} block"))
    stop = "the lamp hits the end stop and " if rest is not None else ""
    end_s = ANSWER_SECONDS if rest is None else rest
    events.append(PlanEvent(t=end_s, what=f"{stop}the shadow is {length} on the {side(where)}"))
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="lamp", trait="yellow"),
            PlanObject(name="block", trait=f"{p.block} {p.color}"),
        ),
        motion=(
            PlanMotion(object="lamp", direction=side(p.sign), speed=speed_word(p.speed)),
            PlanMotion(object="shadow", direction=side(-p.sign), speed=speed_word(tip_speed)),
        ),
        events=tuple(events),
        rest=(PlanRest(object="lamp", t=rest), PlanRest(object="shadow", t=rest)),
        still=(f"{p.color} block",),
    )
    return "A lamp slides along a rail above a block on a table. Static shot with no camera movement.", plan


def backdrop_shadow(p: Shadow, size_px: int) -> Canvas:
    canvas = room(size_px, p.room, TABLE_EDGE_Y)
    # a pale table top: the shadow is the subject
    canvas.gradient((226, 216, 196), (238, 228, 208), TABLE_EDGE_Y, 0.985)
    canvas.box(0.5, RAIL_Y, 1.1, 0.028, STEEL)
    stop_x = p.start_x + p.sign * (p.travel + LAMP_HALF + 0.016)
    canvas.box(stop_x, RAIL_Y + 0.035, 0.035, 0.13, (24, 24, 30))
    return canvas


def shadow_polygon(p: Shadow, lamp_x: float) -> list[Point]:
    """Screen outline of the shadow: hull of the block's base and of its top, projected from the lamp."""
    zoom = magnification(p)
    corners = []
    for dx in (-BLOCK_WIDTH / 2, BLOCK_WIDTH / 2):
        for depth in (-BLOCK_DEPTH / 2, BLOCK_DEPTH / 2):
            corners.append((p.block_x + dx, GROUND_Y + OBLIQUE * depth))
            thrown_x = lamp_x + (p.block_x + dx - lamp_x) * zoom
            corners.append((thrown_x, GROUND_Y + OBLIQUE * depth * zoom))
    hull = cv2.convexHull(np.array(corners, np.float32))[:, 0]
    return [(float(x), float(y)) for x, y in hull]


def draw_shadow(canvas: Canvas, p: Shadow, state: Any) -> None:
    lamp_x, color, height = state[0], COLORS[p.color], BLOCK_HEIGHTS[p.block]
    canvas.polygon(shadow_polygon(p, lamp_x), (34, 32, 44), alpha=0.82)
    lift = OBLIQUE * BLOCK_DEPTH / 2
    canvas.box(p.block_x, GROUND_Y - height, BLOCK_WIDTH, 2 * lift, shade(color, 1.4))
    canvas.box(p.block_x, GROUND_Y + lift - height / 2, BLOCK_WIDTH, height, shade(color, 0.85))
    canvas.box(p.block_x, GROUND_Y + lift - height / 2, BLOCK_WIDTH * 0.84, height * 0.9, color)
    canvas.box(lamp_x, (RAIL_Y + LAMP_Y) / 2 - 0.02, 0.03, LAMP_Y - RAIL_Y, (30, 32, 40))
    canvas.disc(lamp_x, LAMP_Y, 0.12, (255, 244, 170), alpha=0.5)
    canvas.disc(lamp_x, LAMP_Y, 0.06, (255, 226, 60))
    top, low = LAMP_Y - 0.11, LAMP_Y
    shade_points = [
        (lamp_x + dx, y) for dx, y in ((-0.04, top), (0.04, top), (LAMP_HALF, low), (-LAMP_HALF, low))
    ]
    canvas.polygon(shade_points, (30, 32, 40))


# ---------------------------------------------------------------- a cart and its reflection

MIRROR_WIDTH: Final = 0.44
MIRROR_TOP: Final = 0.24
MIRROR_SLANT: Final = 0.08  # the near edge stands lower in the picture
MIRROR_GAP: Final = 0.02  # from the picture's middle to the mirror plane
CART_HALF: Final = 0.085
BALL_RADIUS: Final = 0.08
POST_HALF: Final = 0.025
MAT_DRAG: Final = 0.12  # deceleration on the felt mat, picture widths/s^2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    room: int
    color: str
    mirror: float  # side of the mirror: -1 left, 1 right
    approach: bool
    speed: float  # of the cart; its image closes in or draws off at twice that
    begin_s: float
    distance: float  # of the cart's centre from the mirror plane, at the start
    end: str  # "free", "post" or "mat"
    end_distance: float  # of the cart's centre where it meets post or mat


def sample_mirror(rng: Rng) -> Mirror:
    speed = float(choice(rng, rng.uniform(0.034, 0.045), rng.uniform(0.062, 0.078), rng.uniform(0.1, 0.12)))
    approach = bool(rng.integers(2))
    begin_s = float(rng.uniform(-1.8, -1.6) if speed > 0.0875 else rng.uniform(-2.9, -2.4))
    end = str(choice(rng, "free", "post", "mat"))
    distance = float(rng.uniform(0.38, 0.42) if approach else rng.uniform(0.09, 0.12))
    before = -begin_s * speed
    room_left = (distance - CART_HALF if approach else 0.43 - distance) - before
    ahead = min(float(rng.uniform(0.6, 4.5)) * speed, (0.5 if end == "mat" else 0.75) * room_left)
    return Mirror(
        room=int(rng.integers(4)),
        color=str(choice(rng, *COLORS)),
        mirror=float(choice(rng, -1.0, 1.0)),
        approach=approach,
        speed=speed,
        begin_s=begin_s,
        distance=distance,
        end=end,
        end_distance=distance + (-1 if approach else 1) * (before + ahead),
    )


def simulate_mirror(p: Mirror) -> list[Any]:
    """Per frame: (distance of the cart's centre from the mirror plane,); the image is as far behind it.

    Uniform motion, ended by the post or the mirror itself, or by constant dry friction on the mat
    (x = v t - a t^2 / 2 until v = a t).
    """
    sign = -1.0 if p.approach else 1.0
    limit = p.distance - CART_HALF if p.approach else np.inf
    clear = abs(p.end_distance - p.distance)
    states = []
    for frame in range(NUM_FRAMES):
        way = p.speed * max(frame_time_s(frame) - p.begin_s, 0.0)
        if p.end == "post":
            way = min(way, clear)
        elif p.end == "mat" and way > clear:
            dragged_s = min((way - clear) / p.speed, p.speed / MAT_DRAG)
            way = clear + p.speed * dragged_s - 0.5 * MAT_DRAG * dragged_s**2
        states.append((p.distance + sign * min(way, limit),))
    return states


def describe_mirror(p: Mirror, states: list[Any]) -> tuple[str, PhysicsPlan]:
    distance = np.array(states)
    cart, sign = f"{p.color} cart", -1.0 if p.approach else 1.0
    rest = rest_time_s(distance, tolerance=1e-4)
    meet_s = contact_time_s(distance[:, 0], CART_HALF + 1e-6) if p.approach else None
    end_s = contact_time_s(-sign * distance[:, 0], -sign * p.end_distance + 1e-6)
    gone_s = contact_time_s(-distance[:, 0], -(0.5 + CART_HALF))
    found: list[tuple[float | None, str]] = [
        (end_s if p.end == "mat" else None, f"the {cart} reaches the mat and slows down"),
        (end_s if p.end == "post" else None, f"the {cart} hits the post and stops"),
        (meet_s, f"the {cart} meets its reflection"),
        (gone_s, f"the {cart} leaves the picture"),
    ]
    events = [PlanEvent(t=t, what=what) for t, what in found if t is not None]
    if rest is None and meet_s is None and gone_s is None:
        events.append(PlanEvent(t=ANSWER_SECONDS, what=f"the gap to the reflection still {_gap_word(p)}"))
    if rest is not None and meet_s is None:
        gap = "narrow" if distance[-1, 0] < 0.2 else "wide"
        events.append(PlanEvent(t=rest, what=f"the gap to the reflection stays {gap}"))
    direction, speed = -sign * p.mirror, speed_word(2 * p.speed)
    plan = PhysicsPlan(
        objects=(PlanObject(name="cart", trait=p.color), PlanObject(name="mirror", trait=side(p.mirror))),
        motion=(
            PlanMotion(object=cart, direction=side(direction), speed=speed),
            PlanMotion(object="reflection", direction=side(-direction), speed=speed),
        ),
        events=tuple(events),
        rest=(PlanRest(object=cart, t=rest), PlanRest(object="reflection", t=rest)),
        still=("mirror",) if p.end == "free" else ("mirror", p.end),
    )
    return "A toy cart rolls on a table in front of a mirror. Static shot with no camera movement.", plan


def _gap_word(p: Mirror) -> str:
    return "shrinks" if p.approach else "grows"


def mirror_polygon(p: Mirror) -> list[Point]:
    """The mirror on screen: its far edge stands in the plane the cart moves in, the near one lower."""
    far = 0.5 + p.mirror * MIRROR_GAP
    near = far + p.mirror * MIRROR_WIDTH
    low = FLOOR_Y + 0.02
    return [(far, MIRROR_TOP), (near, MIRROR_TOP - MIRROR_SLANT), (near, low + MIRROR_SLANT), (far, low)]


def place(p: Mirror, distance: float) -> float:
    """Screen x at `distance` before the mirror plane; behind it if negative."""
    return 0.5 + p.mirror * (MIRROR_GAP - distance)


def backdrop_mirror(p: Mirror, size_px: int) -> Canvas:
    canvas = room(size_px, p.room)
    # post and mat lie beyond the cart's leading end
    ahead = -1.0 if p.approach else 1.0
    glass = mirror_polygon(p)
    canvas.polygon(glass, (190, 214, 226), alpha=0.6)
    for image in (1.0, -1.0):
        edge = p.end_distance + ahead * CART_HALF
        if p.end == "mat":
            far_end = max(edge - 0.3, 0.0) if p.approach else edge + 0.3
            middle, width = (edge + far_end) / 2, abs(edge - far_end)
            canvas.box(place(p, image * middle), FLOOR_Y + 0.016, width, 0.07, (24, 84, 48))
        elif p.end == "post":
            canvas.box(
                place(p, image * (edge + ahead * POST_HALF)),
                FLOOR_Y - 0.05,
                2 * POST_HALF,
                0.13,
                (26, 26, 32),
            )
    return canvas


def draw_cart(canvas: Canvas, p: Mirror, x: float) -> None:
    canvas.ellipse(x, FLOOR_Y + 0.006, CART_HALF * 1.2, 0.018, (40, 40, 48), alpha=0.5)
    canvas.box(x, FLOOR_Y - 0.055, 2 * CART_HALF, 0.05, STEEL)
    for dx in (-0.05, 0.05):
        canvas.disc(x + dx, FLOOR_Y - 0.028, 0.032, (28, 28, 34))
    canvas.ball(x, FLOOR_Y - 0.08 - BALL_RADIUS, BALL_RADIUS, COLORS[p.color])


def draw_mirror(canvas: Canvas, p: Mirror, state: Any) -> None:
    distance, glass = state[0], mirror_polygon(p)
    behind = canvas.copy()
    draw_cart(behind, p, place(p, -distance))
    mask = np.zeros((canvas.side, canvas.side), np.uint8)
    cv2.fillPoly(mask, [(np.array(glass) * canvas.side).round().astype(np.int32)], 255)
    cv2.copyTo(behind.image, mask, canvas.image)
    for (x0, y0), (x1, y1) in zip(glass, glass[1:] + glass[:1], strict=True):
        canvas.line(x0, y0, x1, y1, 0.024, (92, 64, 40))
    draw_cart(canvas, p, place(p, distance))


KINDS: Final = (
    Kind(
        name="moving-shadow",
        category=CATEGORY,
        sample=sample_shadow,
        vary=lambda p, rng: nudged(p, rng, {"speed": 0.02 * p.speed, "begin_s": 0.04}),
        simulate=simulate_shadow,
        describe=describe_shadow,
        backdrop=backdrop_shadow,
        draw=draw_shadow,
    ),
    Kind(
        name="mirror",
        category=CATEGORY,
        sample=sample_mirror,
        vary=lambda p, rng: nudged(p, rng, {"speed": 0.02 * p.speed, "begin_s": 0.04}),
        simulate=simulate_mirror,
        describe=describe_mirror,
        backdrop=backdrop_mirror,
        draw=draw_mirror,
    ),
)
