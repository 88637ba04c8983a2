"""Optics: a searchlight turns and lights lamps; a lamp runs to and fro over two posts that throw shadows.

Geometry only: a beam is a wedge, a shadow a central projection. When and which way the light moves is told by
its dial, its sense of turning and its stops; light that was met stays on, so that order and count matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, SWITCH, Kind, Labels, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, shade
from engine.demo.scenes.optics import CATEGORY
from engine.demo.scenes.rigid import side
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import FLOOR_Y, INK, METAL, Setting
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

# ---------------------------------------------------------------- a searchlight turns

AXIS: Final = (0.5, 0.84)
REACH: Final = 0.62  # of the beam
BULBS_AT: Final = 0.55  # distance of the sensors from the axis
HALF_WEDGE: Final = 0.09  # rad
BULB: Final = 0.06
STOPS: Final = 1.12  # rad from upright
NIGHT: Final = ((40, 46, 66), (28, 32, 48))


@dataclass(frozen=True, slots=True, kw_only=True)
class Searchlight:
    setting: Setting
    colors: tuple[str, str, str]  # of the sensors, from left to right
    angles: tuple[float, float, float]  # rad from upright, positive to the right
    start: float
    rate: float  # rad/s, positive to the right
    returns: bool  # at a stop: turns back, else stays
    begin_s: float
    end_s: float  # a dial switches the motor off
    broken: str = ""
    broken_s: float = 0.0


def sample_searchlight(rng: Rng) -> Searchlight:
    colors = [str(name) for name in rng.permutation(list(COLORS))[:3]]
    if rng.random() < 0.4:
        colors = [colors[0]] * 3
    sign = float(choice(rng, -1.0, 1.0))
    rate = float(rng.uniform(0.32, 0.85))
    begin_s = float(rng.uniform(-1.4, -0.7))
    return Searchlight(
        setting=replace(props.sample_setting(rng), bystander=""),
        colors=(colors[0], colors[1], colors[2]),
        angles=(
            float(rng.uniform(-0.95, -0.6)),
            float(rng.uniform(-0.2, 0.2)),
            float(rng.uniform(0.6, 0.95)),
        ),
        start=-sign * float(rng.uniform(0.2, 1.05)),
        rate=sign * rate,
        returns=bool(rng.integers(2)),
        begin_s=begin_s,
        end_s=float(choice(rng, 9.0, rng.uniform(1.0, 4.2))),
    )


def beam_angles(p: Searchlight) -> np.ndarray:
    """float64 [NUM_FRAMES]: uniform turning from `begin_s` to `end_s`, folded or held at the stops."""
    t = props.frame_times()
    turned = p.start + p.rate * np.clip(t - p.begin_s, 0.0, max(p.end_s - p.begin_s, 0.0))
    if not p.returns:
        return np.clip(turned, -STOPS, STOPS)
    phase = np.mod(turned + STOPS, 4 * STOPS)
    return np.where(phase < 2 * STOPS, phase, 4 * STOPS - phase) - STOPS


def simulate_searchlight(p: Searchlight) -> list[Any]:
    """States (t, angle of the beam, (sensor lit, ...)): a sensor stays lit once the beam has met it."""
    angles = beam_angles(p)
    met = np.abs(angles[:, None] - np.array(p.angles)) < HALF_WEDGE + 0.06
    between = np.diff(np.sign(angles[:, None] - np.array(p.angles)), axis=0, prepend=np.nan)
    lit = np.logical_or.accumulate(met | (np.abs(np.nan_to_num(between)) > 1.0), axis=0)
    rows = zip(props.frame_times(), angles, lit, strict=True)
    return [(float(t), float(a), tuple(map(bool, row))) for t, a, row in rows]


def sensor_names(p: Searchlight) -> tuple[str, ...]:
    if len(set(p.colors)) == 1:
        return "left lamp", "middle lamp", "right lamp"
    return tuple(f"{color} lamp" for color in p.colors)


def describe_searchlight(p: Searchlight, states: list[Any]) -> tuple[str, PhysicsPlan]:
    lit, names = np.array([state[2] for state in states]), sensor_names(p)
    angles = np.array([state[1] for state in states])
    times = {name: props.first_s(lit[:, i]) for i, name in enumerate(names) if not lit[SWITCH - 1, i]}
    events = [
        PlanEvent(t=t, what=f"the beam meets the {name} and it lights up")
        for name, t in times.items()
        if t is not None
    ]
    steps = np.diff(angles[SWITCH - 1 :])
    turn = np.flatnonzero(steps[1:] * steps[:-1] < 0)
    if len(turn):
        t = (int(turn[0]) + 1) / FPS
        events.append(
            PlanEvent(t=t, what=f"the beam turns back on the {side(angles[SWITCH + int(turn[0])])}")
        )
    end = float(angles[-1])
    where = "left" if end < -0.35 else "right" if end > 0.35 else "top"
    number = props.NUMBERS[int(lit[-1].sum())]
    events.append(PlanEvent(t=5.0, what=f"the beam points to the {where} and {number} lamps are lit"))
    way = "clockwise" if steps[0] > 0 or (steps[0] == 0 and p.rate > 0) else "counterclockwise"
    plan = PhysicsPlan(
        objects=(PlanObject(name="searchlight", trait="turning"), PlanObject(name="lamps", trait="three")),
        motion=(PlanMotion(object="beam", direction=way, speed=props.pace(abs(p.rate) / 2)),),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(PlanRest(object="beam", t=rest_time_s(angles[:, None] * BULBS_AT)),),
        still=("base",),
    )
    return f"A searchlight turns in a dark room with three lamps.{props.CAMERA}", plan


def label_searchlight(p: Searchlight, states: list[Any]) -> Labels:
    lit = np.array([state[2] for state in states])
    met = int((lit[-1] & ~lit[SWITCH - 1]).sum())
    return props.labels_of(
        speed=abs(p.rate) * BULBS_AT, movers=1, interactions=met, alike=len(set(p.colors)) == 1, soft=True,
        parts=0,
    )  # fmt: skip


def backdrop_searchlight(p: Searchlight, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px, table_y=0.9)
    tint = p.setting.room * 6
    top, bottom = (tuple(channel + tint for channel in color) for color in NIGHT)
    canvas.gradient((top[0], top[1], top[2]), (bottom[0], bottom[1], bottom[2]), 0.0, 0.9)
    canvas.gradient((64, 58, 56), (44, 40, 40), 0.9, 1.0)
    return canvas


def draw_searchlight(canvas: Canvas, p: Searchlight, state: Any) -> None:
    t, angle, lit = state
    x, y = AXIS
    edges = np.linspace(angle - HALF_WEDGE, angle + HALF_WEDGE, 6)
    rim = [(x + REACH * float(np.sin(a)), y - REACH * float(np.cos(a))) for a in edges]
    canvas.polygon([(x, y), *rim], (250, 240, 180), alpha=0.92)
    for bulb, color, on in zip(p.angles, p.colors, lit, strict=True):
        bx, by = x + BULBS_AT * float(np.sin(bulb)), y - BULBS_AT * float(np.cos(bulb))
        if on:
            canvas.disc(bx, by, 1.5 * BULB, shade(COLORS[color], 1.2), alpha=0.45)
        canvas.disc(bx, by, BULB, INK)
        canvas.disc(bx, by, 0.84 * BULB, shade(COLORS[color], 1.35 if on else 0.45))
    canvas.box(x, 0.93, 0.16, 0.05, METAL)
    canvas.box(
        x + 0.03 * float(np.sin(angle)), y - 0.03 * float(np.cos(angle)), 0.1, 0.13, METAL, angle_rad=angle
    )
    canvas.disc(x, y, 0.045, shade(METAL, 0.6))
    for sign in (-1.0, 1.0):  # the stops
        sx, sy = x + sign * 0.15 * float(np.sin(STOPS + 0.32)), y - 0.15 * float(np.cos(STOPS + 0.32))
        canvas.disc(sx, sy, 0.026, (206, 48, 40) if not p.returns else (70, 170, 220))
    if p.end_s < 5.0:
        props.draw_dial(canvas, 0.85, 0.86, p.end_s - t, 0.085)


# ---------------------------------------------------------------- a lamp runs over two posts

RAIL_Y: Final = 0.06
LAMP_Y: Final = 0.17
GROUND_Y: Final = FLOOR_Y
POST_WIDTH: Final = 0.07
SHADOW_DEPTH: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Lamp:
    setting: Setting
    colors: tuple[str, str]
    posts: tuple[float, float]  # x
    heights: tuple[float, float]
    stops: tuple[float, float]  # x of the left and the right stop of the rail
    start_x: float
    velocity: float
    bounce: float  # of the stops: 0 holds the lamp, 1 sends it back as fast
    broken: str = ""
    broken_s: float = 0.0


def sample_lamp(rng: Rng) -> Lamp:
    names = [str(name) for name in rng.permutation(list(COLORS))[:2]]
    sign = float(choice(rng, -1.0, 1.0))
    speed = float(rng.uniform(0.12, 0.3))
    stops = (float(rng.uniform(0.1, 0.2)), float(rng.uniform(0.8, 0.9)))
    start = stops[0] if sign > 0 else stops[1]
    return Lamp(
        setting=replace(props.sample_setting(rng), bystander=""),
        colors=(names[0], names[1]),
        posts=(float(rng.uniform(0.28, 0.4)), float(rng.uniform(0.6, 0.72))),
        heights=(float(rng.uniform(0.14, 0.36)), float(rng.uniform(0.14, 0.36))),
        stops=stops,
        start_x=start + sign * float(rng.uniform(0.0, 0.2)),
        velocity=sign * speed,
        bounce=float(choice(rng, 0.0, 0.5, 1.0)),
    )


def simulate_lamp(p: Lamp) -> list[Any]:
    """States (t, lamp x): uniform motion between the stops, which leave `bounce` of the speed."""
    x, v, step = p.start_x, p.velocity, 1.0 / (FPS * 10)
    bounce = {0.0: 1.0}.get(p.bounce, 0.0) if p.broken == "wrong restitution" else p.bounce
    states: list[Any] = []
    for t in props.frame_times():
        states.append((float(t), x))
        for _ in range(10):
            x += v * step
            if not p.stops[0] <= x <= p.stops[1]:
                x, v = float(np.clip(x, *p.stops)), -bounce * v
    return states


def shadow_tip(p: Lamp, lamp_x: float, post: int) -> float:
    """Where the top of a post is thrown: similar triangles between the lamp and the ground."""
    height = p.heights[post]
    zoom = (GROUND_Y - LAMP_Y) / (GROUND_Y - LAMP_Y - height)
    return lamp_x + (p.posts[post] - lamp_x) * zoom


def describe_lamp(p: Lamp, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array(states)[:, 1]
    steps = np.diff(track[SWITCH - 1 :])
    names = [f"{color} post" for color in p.colors]
    events = []
    for name, x in zip(names, p.posts, strict=True):
        over = np.flatnonzero((track[SWITCH:] - x) * (track[SWITCH - 1 : -1] - x) < 0)
        if len(over):
            events.append(PlanEvent(t=int(over[0]) / FPS, what=f"the lamp passes over the {name}"))
    reached = np.flatnonzero(np.abs(steps[1:] - steps[:-1]) > 0.005)
    way = side(float(steps[0]) or p.velocity)
    if len(reached):
        act = {0.0: "stays there", 0.5: "comes back slower", 1.0: "comes back"}[p.bounce]
        events.append(PlanEvent(t=int(reached[0]) / FPS, what=f"the lamp hits the stop and {act}"))
    tips = [shadow_tip(p, float(track[-1]), i) - x for i, x in enumerate(p.posts)]
    ends = [
        f"the shadow of the {name} is {'long' if abs(tip) > 0.16 else 'short'} on the {side(tip)}"
        for name, tip in zip(names, tips, strict=True)
    ]
    events.append(PlanEvent(t=5.0, what=f"at the end {' and '.join(ends)}"))
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="lamp", trait="yellow"),
            *(PlanObject(name="post", trait=c) for c in p.colors),
        ),
        motion=(PlanMotion(object="lamp", direction=way, speed=props.pace(abs(p.velocity))),),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(PlanRest(object="lamp", t=rest_time_s(track[:, None])),),
        still=tuple(names),
    )
    return f"A lamp slides on a rail over two posts.{props.CAMERA}", plan


def label_lamp(p: Lamp, states: list[Any]) -> Labels:
    track = np.array(states)[:, 1]
    turns = int((np.abs(np.diff(np.diff(track[SWITCH - 1 :]))) > 0.005).sum())
    return props.labels_of(
        speed=abs(p.velocity), movers=1, interactions=turns, alike=False, soft=True, parts=0
    )


def backdrop_lamp(p: Lamp, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px)
    canvas.box(0.5, RAIL_Y, p.stops[1] - p.stops[0] + 0.2, 0.03, METAL)
    for x, sign in zip(p.stops, (-1.0, 1.0), strict=True):
        color = {0.0: (206, 48, 40), 0.5: (226, 160, 40), 1.0: (60, 170, 90)}[p.bounce]
        canvas.box(x + sign * 0.09, RAIL_Y + 0.02, 0.05, 0.11, color)
    return canvas


def draw_lamp(canvas: Canvas, p: Lamp, state: Any) -> None:
    _, lamp_x = state
    for i, x in enumerate(p.posts):
        tip = shadow_tip(p, lamp_x, i)
        left, right = min(x - POST_WIDTH / 2, tip), max(x + POST_WIDTH / 2, tip)
        canvas.box((left + right) / 2, GROUND_Y + 0.02, right - left, SHADOW_DEPTH, (34, 32, 44))
    for x, height, color in zip(p.posts, p.heights, p.colors, strict=True):
        canvas.box(x, GROUND_Y - height / 2, POST_WIDTH, height, shade(COLORS[color], 0.65))
        canvas.box(x, GROUND_Y - height / 2, POST_WIDTH * 0.7, height * 0.95, COLORS[color])
    canvas.box(lamp_x, RAIL_Y, 0.09, 0.05, INK)
    canvas.line(lamp_x, RAIL_Y, lamp_x, LAMP_Y, 0.02, INK)
    canvas.disc(lamp_x, LAMP_Y, 0.1, (255, 240, 170), alpha=0.5)
    canvas.disc(lamp_x, LAMP_Y, 0.055, (255, 226, 90))


KINDS: Final = (
    Kind(
        name="searchlight",
        category=CATEGORY,
        sample=sample_searchlight,
        vary=lambda p, rng: nudged(p, rng, {"begin_s": 0.05, "rate": 0.02}),
        simulate=simulate_searchlight,
        describe=describe_searchlight,
        backdrop=backdrop_searchlight,
        draw=draw_searchlight,
        label=label_searchlight,
    ),
    Kind(
        name="two-shadows",
        category=CATEGORY,
        sample=sample_lamp,
        vary=lambda p, rng: nudged(p, rng, {"start_x": 0.006, "velocity": 0.02 * abs(p.velocity)}),
        simulate=simulate_lamp,
        describe=describe_lamp,
        backdrop=backdrop_lamp,
        draw=draw_lamp,
        label=label_lamp,
        breaks=("wrong restitution",),
    ),
)
