"""Fluid dynamics: things let go in a tank float or sink; water runs from one vessel to another.

What a thing does is told by what it is made of, when by the dial over its clamp; which way the water runs by
the levels, how fast by the pipe, when by the dial of its valve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Labels, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, Color, shade
from engine.demo.scenes.fluids import CATEGORY
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import FLOOR_Y, INK, METAL, STEP_S, SUBSTEPS, Setting
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

# ---------------------------------------------------------------- things let go in a tank

SURFACE_Y: Final = 0.46
BED_Y: Final = 0.92
GRAVITY: Final = 1.1  # world units/s^2
DRAG: Final = 16.0  # 1/world unit, per density: quadratic drag in water
DENSITY: Final = {"cork": 0.3, "wax": 0.82, "clay": 1.22, "steel": 2.4}  # relative to water
RADIUS: Final = 0.075
WATER: Final[Color] = (176, 212, 234)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    look: str
    x: float
    below: bool  # held at the bed instead of above the water
    release_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tank:
    setting: Setting
    drops: tuple[Drop, Drop]
    broken: str = ""
    broken_s: float = 0.0


def sample_tank(rng: Rng) -> Tank:
    early, late = float(rng.uniform(-0.3, 1.2)), float(rng.uniform(1.2, 3.4))
    times = (early, late) if rng.integers(2) else (late, early)
    looks = [str(name) for name in rng.choice(list(DENSITY), 2, replace=bool(rng.integers(2)))]
    drops = tuple(
        Drop(
            look=look,
            x=x + float(rng.uniform(-0.03, 0.03)),
            below=DENSITY[look] < 1.0 and bool(rng.integers(2)),
            release_s=t,
        )
        for look, x, t in zip(looks, (0.3, 0.7), times, strict=True)
    )
    return Tank(setting=replace(props.sample_setting(rng), bystander=""), drops=(drops[0], drops[1]))


def vary_tank(p: Tank, rng: Rng) -> Tank:
    late = [float(rng.normal(0.0, 0.05)) for _ in p.drops]
    first, second = (replace(d, release_s=d.release_s + e) for d, e in zip(p.drops, late, strict=True))
    return replace(p, drops=(first, second))


def held_y(drop: Drop) -> float:
    return BED_Y - RADIUS if drop.below else 0.3


def simulate_tank(p: Tank) -> list[Any]:
    """States (t, y of the first, y of the second)."""
    paths = [fall(drop, p.broken) for drop in p.drops]
    return list(zip(props.frame_times(), *paths, strict=True))


def fall(drop: Drop, broken: str) -> list[float]:
    """y of each frame: weight, buoyancy of the immersed share, quadratic drag; semi-implicit Euler.

    The accelerated mass is the thing's and half of the displaced water's (added mass of a sphere, Lamb,
    Hydrodynamics, article 92). Things stop at the bed.
    """
    density, y, v = DENSITY[drop.look], held_y(drop), 0.0
    found = []
    for frame in range(NUM_FRAMES):
        found.append(y)
        for step in range(SUBSTEPS):
            if (frame - SWITCH) / FPS + step * STEP_S < drop.release_s:
                continue
            wet = float(np.clip((y + RADIUS - SURFACE_Y) / (2 * RADIUS), 0.0, 1.0))
            mass = density + 0.5 * wet
            force = GRAVITY * (density - wet) - wet * DRAG * 0.5 * v * abs(v) - wet * 0.9 * v
            v += force / mass * STEP_S
            y += v * STEP_S
            if y > BED_Y - RADIUS and broken != "passes through":
                y, v = BED_Y - RADIUS, 0.0
    return found


def drop_names(p: Tank) -> tuple[str, str]:
    one, two = p.drops
    if one.look == two.look:
        return f"left {one.look} ball", f"right {two.look} ball"
    return f"{one.look} ball", f"{two.look} ball"


def describe_tank(p: Tank, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track, names = np.array(states)[:, 1:], drop_names(p)
    events, motions, rests = [], [], []
    for column, (name, drop) in enumerate(zip(names, p.drops, strict=True)):
        y = track[:, column]
        way = "up" if drop.below else "down"
        what = f"the {name} is let go and {'rises' if drop.below else 'falls into the water'}"
        events.append(PlanEvent(t=props.at(drop.release_s), what=what))
        arrived = props.first_s(y > BED_Y - RADIUS - 0.004 if not drop.below else y < SURFACE_Y + 0.05)
        if DENSITY[drop.look] > 1.0 and arrived is not None:
            events.append(PlanEvent(t=arrived, what=f"the {name} lies on the bottom"))
        elif DENSITY[drop.look] < 1.0:
            events.append(
                PlanEvent(t=props.at(drop.release_s + 1.0), what=f"the {name} floats on the surface")
            )
        speed = props.mean_speed(track[:, [column]])
        motions.append(PlanMotion(object=name, direction=way, speed=props.pace(speed / 2)))
        rests.append(PlanRest(object=name, t=rest_time_s(track[:, [column]])))
    plan = PhysicsPlan(
        objects=tuple(PlanObject(name="ball", trait=f"{n.removesuffix(' ball')}") for n in names),
        motion=tuple(motions),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=tuple(rests),
        still=("tank", "clamps"),
    )
    return f"Two clamps hold two balls in a tank of water and let go of them.{props.CAMERA}", plan


def label_tank(p: Tank, states: list[Any]) -> Labels:
    track = np.array(states)[:, 1:]
    moved = int((np.ptp(track[SWITCH:], axis=0) > 0.02).sum())
    return props.labels_of(
        speed=props.mean_speed(track), movers=moved, interactions=moved,
        alike=p.drops[0].look == p.drops[1].look, soft=any(not d.below for d in p.drops), parts=0,
    )  # fmt: skip


def backdrop_tank(p: Tank, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px)
    canvas.gradient(WATER, shade(WATER, 0.86), SURFACE_Y, BED_Y)
    canvas.box(0.5, SURFACE_Y, 1.2, 0.012, (112, 152, 182))
    canvas.box(0.5, BED_Y + 0.02, 1.2, 0.04, (150, 138, 116))
    return canvas


def draw_tank(canvas: Canvas, p: Tank, state: Any) -> None:
    t, *ys = state
    for drop, y in zip(p.drops, ys, strict=True):
        props.draw_dial(canvas, 0.42 if drop.x < 0.5 else 0.58, 0.11, drop.release_s - t, 0.066)
        opening = float(np.clip((t - drop.release_s) / 0.2, 0.0, 1.0))
        props.draw_thing(canvas, drop.x, y, RADIUS, drop.look)
        if drop.below:
            for sign in (-1.0, 1.0):
                canvas.box(
                    drop.x + sign * RADIUS * (1.05 + 0.4 * opening), BED_Y - RADIUS, 0.028, RADIUS * 1.9, INK
                )
        else:
            props.draw_clamp(canvas, drop.x, held_y(drop) - RADIUS, RADIUS, opening)
        near = abs(y - SURFACE_Y) < RADIUS and t > drop.release_s
        if near:  # a collar of foam where it goes through the surface
            half = RADIUS + 0.035
            canvas.ellipse(drop.x, SURFACE_Y, half, 0.016, (244, 250, 254), alpha=0.75)


# ---------------------------------------------------------------- water runs from one vessel to another

BASE_Y: Final = 0.9
TOP_Y: Final = 0.26
PIPE_Y: Final = 0.862
VALVE_DIAL: Final = (0.5, 0.13)
BUOY: Final = 0.05
PIPES: Final = {"narrow": (0.022, 0.034), "wide": (0.05, 0.068)}  # flow per root of the level difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Vessels:
    setting: Setting
    color: str
    widths: tuple[float, float]
    levels: tuple[float, float]  # at the start, above the base
    pipe: str
    flow: float
    open_s: float
    buoys: tuple[str, str]
    broken: str = ""
    broken_s: float = 0.0


def sample_vessels(rng: Rng) -> Vessels:
    low, high = float(rng.uniform(0.07, 0.16)), float(rng.uniform(0.42, 0.56))
    widths = tuple(float(rng.uniform(0.2, 0.34)) for _ in range(2))
    pipe = str(choice(rng, *PIPES))
    names = [str(name) for name in rng.permutation([n for n in COLORS if n != "blue"])]
    return Vessels(
        setting=replace(props.sample_setting(rng), bystander=""),
        color=str(choice(rng, "blue", "green", "purple")),
        widths=(widths[0], widths[1]),
        levels=(low, high) if rng.integers(2) else (high, low),
        pipe=pipe,
        flow=float(rng.uniform(*PIPES[pipe])),
        open_s=float(rng.uniform(-0.6, 2.8)),
        buoys=(names[0], names[1]),
    )


def simulate_vessels(p: Vessels) -> list[Any]:
    """States (t, left level, right level): the flow is as the root of the level difference (Torricelli)."""
    levels = list(p.levels)
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        states.append(((frame - SWITCH) / FPS, *levels))
        for step in range(SUBSTEPS):
            if (frame - SWITCH) / FPS + step * STEP_S < p.open_s:
                continue
            gap = levels[0] - levels[1]
            volume = p.flow * float(np.sign(gap)) * float(np.sqrt(abs(gap))) * STEP_S
            limit = abs(gap) / (1 / p.widths[0] + 1 / p.widths[1])  # the volume that makes the levels equal
            volume = float(np.clip(volume, -limit, limit))
            levels = [levels[0] - volume / p.widths[0], levels[1] + volume / p.widths[1]]
    return states


def describe_vessels(p: Vessels, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array(states)[:, 1:]
    falls = 0 if p.levels[0] > p.levels[1] else 1
    names = ("left", "right")
    rest = rest_time_s(track, 0.0025)
    end = float(track[-1].mean())
    height = "low" if end < 0.24 else "half full" if end < 0.34 else "high"
    speed = max(props.mean_speed(track[:, [i]]) for i in range(2))
    events = [
        PlanEvent(t=props.at(p.open_s), what=f"the valve opens and water runs to the {names[1 - falls]}")
    ]
    if rest is not None:
        events.append(PlanEvent(t=rest, what=f"both levels are equal and {height}"))
    else:
        events.append(PlanEvent(t=5.0, what=f"the {names[falls]} level is still higher"))
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="water", trait=p.color),
            PlanObject(name="pipe", trait=p.pipe),
        ),
        motion=tuple(
            PlanMotion(
                object=f"{name} level",
                direction="down" if i == falls else "up",
                speed=props.pace(speed * 1.5),
            )
            for i, name in enumerate(names)
        ),
        events=tuple(events),
        rest=(PlanRest(object="water", t=rest),),
        still=("vessels", "pipe"),
    )
    return f"Two vessels of water are joined by a pipe with a valve.{props.CAMERA}", plan


def label_vessels(p: Vessels, states: list[Any]) -> Labels:
    track = np.array(states)[:, 1:]
    return props.labels_of(
        speed=props.mean_speed(track), movers=1, interactions=1, alike=False, soft=True, parts=0
    )


def centres(p: Vessels) -> tuple[float, float]:
    return 0.26, 0.74


def backdrop_vessels(p: Vessels, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px)
    for x, width in zip(centres(p), p.widths, strict=True):
        canvas.shadow(x, FLOOR_Y + 0.06, width * 1.3)
        canvas.box(x, (TOP_Y + BASE_Y) / 2, width + 0.04, BASE_Y - TOP_Y + 0.04, (120, 138, 152))
        canvas.box(x, (TOP_Y + BASE_Y) / 2 - 0.02, width, BASE_Y - TOP_Y + 0.02, (240, 245, 250))
    return canvas


def draw_vessels(canvas: Canvas, p: Vessels, state: Any) -> None:
    t, *levels = state
    color, is_open = COLORS[p.color], t >= p.open_s
    thick = 0.06 if p.pipe == "wide" else 0.03
    (left, right), (a, b) = centres(p), p.widths
    x0, x1 = left + a / 2 - 0.01, right - b / 2 + 0.01
    canvas.box((x0 + x1) / 2, PIPE_Y, x1 - x0, thick + 0.024, (120, 138, 152))
    canvas.box((x0 + x1) / 2, PIPE_Y, x1 - x0, thick, color)
    for x, width, level, name in zip((left, right), (a, b), levels, p.buoys, strict=True):
        canvas.box(x, BASE_Y - level / 2, width, level, color)
        canvas.box(x, BASE_Y - level + 0.008, width, 0.016, shade(color, 1.4))
        canvas.disc(x, BASE_Y - level - 0.012, BUOY, shade(COLORS[name], 0.6))
        canvas.disc(x, BASE_Y - level - 0.012, 0.8 * BUOY, COLORS[name])
        canvas.box(x, BASE_Y - level - 0.012, 1.7 * BUOY, 0.02, (250, 250, 250))
    canvas.disc(0.5, PIPE_Y, 0.055, METAL)
    turn = 0.0 if is_open else np.pi / 2
    canvas.box(0.5, PIPE_Y, 0.13, 0.028, (206, 48, 40), angle_rad=turn)
    props.draw_dial(canvas, *VALVE_DIAL, p.open_s - t)


KINDS: Final = (
    Kind(
        name="float-or-sink",
        category=CATEGORY,
        sample=sample_tank,
        vary=vary_tank,
        simulate=simulate_tank,
        describe=describe_tank,
        backdrop=backdrop_tank,
        draw=draw_tank,
        label=label_tank,
        breaks=("passes through",),
    ),
    Kind(
        name="joined-vessels",
        category=CATEGORY,
        sample=sample_vessels,
        vary=lambda p, rng: nudged(p, rng, {"open_s": 0.05, "flow": 0.03 * p.flow}),
        simulate=simulate_vessels,
        describe=describe_vessels,
        backdrop=backdrop_vessels,
        draw=draw_vessels,
        label=label_vessels,
    ),
)
