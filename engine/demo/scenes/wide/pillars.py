"""Thermodynamics: two ice pillars on hot plates carry a plank, and the ball on it rolls where it sinks.

How fast a pillar melts is told by the glow of its plate, when by the dial, and so which side sinks first, and
when the ball leaves on which side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Labels, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, shade
from engine.demo.scenes.rigid import side
from engine.demo.scenes.thermo import CATEGORY, HEAT_GLOW, dim_room
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import STEP_S, SUBSTEPS, Setting
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

XS: Final = (0.26, 0.74)
PLATE_Y: Final = 0.82
PILLAR: Final = 0.15  # width
PLANK: Final = (0.66, 0.035)
RADIUS: Final = 0.06
GRAVITY: Final = 1.0  # world units/s^2
STICKS: Final = 0.035  # rad: below it the ball does not begin to roll
SPEEDS: Final = {"low": "slow", "medium": "medium", "high": "fast"}
RATES: Final = {"low": (0.02, 0.03), "medium": (0.05, 0.065), "high": (0.09, 0.12)}  # height/s


@dataclass(frozen=True, slots=True, kw_only=True)
class Pillars:
    setting: Setting
    ball: str
    powers: tuple[str, str]
    rates: tuple[float, float]
    heights: tuple[float, float]
    on_s: float
    ball_at: float  # along the plank from its middle
    broken: str = ""
    broken_s: float = 0.0


def sample_pillars(rng: Rng) -> Pillars:
    one, two = (str(name) for name in rng.permutation(list(RATES))[:2])
    height = float(rng.uniform(0.26, 0.4))
    return Pillars(
        setting=replace(props.sample_setting(rng), bystander=""),
        ball=str(choice(rng, *COLORS)),
        powers=(one, two),
        rates=(float(rng.uniform(*RATES[one])), float(rng.uniform(*RATES[two]))),
        heights=(height, height),
        on_s=float(rng.uniform(-1.2, 1.6)),
        ball_at=float(rng.uniform(-0.1, 0.1)),
    )


def simulate_pillars(p: Pillars) -> list[Any]:
    """States (t, left height, right height, (ball x, ball y, spin)).

    A pillar of constant section on a plate that passes a constant heat flux loses height evenly. On the
    plank the ball's acceleration is 5/7 g sin(tilt), over its ends it falls freely and lies where it lands.
    """
    s, v, x, y, vx, vy, off = p.ball_at, 0.0, 0.0, 0.0, 0.0, 0.0, False
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        t0 = (frame - SWITCH) / FPS
        heights = [max(h - r * max(t0 - p.on_s, 0.0), 0.0) for h, r in zip(p.heights, p.rates, strict=True)]
        tilt, middle = plank(heights)
        if not off:
            x, y = on_plank(s, tilt, middle)
        states.append((t0, *heights, (x, y, s / RADIUS)))
        for _ in range(SUBSTEPS):
            if off:
                vy += GRAVITY * STEP_S
                x, y, s = x + vx * STEP_S, y + vy * STEP_S, s + vx * STEP_S
                if y > 0.95 - RADIUS and p.broken != "passes through":
                    y, vy, vx = 0.95 - RADIUS, 0.0, vx * (1.0 - 1.2 * STEP_S)
                continue
            if abs(v) > 0.0 or abs(tilt) > STICKS:
                v += 5 / 7 * GRAVITY * float(np.sin(tilt)) * STEP_S
            s += v * STEP_S
            if abs(s) > PLANK[0] / 2:
                off, (x, y) = True, on_plank(s, tilt, middle)
                vx, vy = v * float(np.cos(tilt)), v * float(np.sin(tilt))
    return states


def plank(heights: list[float]) -> tuple[float, float]:
    """(tilt in rad, positive where the right end is lower; y of the middle of its lower face)."""
    tilt = float(np.arctan2(heights[0] - heights[1], XS[1] - XS[0]))
    return tilt, PLATE_Y - sum(heights) / 2


def on_plank(s: float, tilt: float, middle: float) -> tuple[float, float]:
    """The ball's centre at `s` along the plank."""
    cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
    lift = PLANK[1] + RADIUS
    return 0.5 + s * cos + lift * sin, middle + s * sin - lift * cos


def describe_pillars(p: Pillars, states: list[Any]) -> tuple[str, PhysicsPlan]:
    heights, ball = np.array([s[1:3] for s in states]), np.array([s[3][:2] for s in states])
    way = side(p.rates[1] - p.rates[0])
    name, events = f"{p.ball} ball", []
    if p.on_s >= 0.0:
        events.append(PlanEvent(t=p.on_s, what="the plates are switched on and glow"))
    spin = np.array([s[3][2] for s in states])
    rolls = props.first_s(np.abs(spin - spin[0]) > 0.2)
    if rolls is not None:
        events.append(PlanEvent(t=rolls, what=f"the plank tilts and the {name} rolls to the {way}"))
    falls = props.first_s(np.abs(spin * RADIUS) > PLANK[0] / 2)
    if falls is not None:
        events.append(PlanEvent(t=falls, what=f"the {name} falls off the plank"))
    gone = [i for i in range(2) if heights[-1, i] <= 0.0]
    left = " and ".join(f"the {('left', 'right')[i]} pillar is gone" for i in gone) or "both pillars are left"
    events.append(PlanEvent(t=5.0, what=left))
    names = ("left pillar", "right pillar")
    plan = PhysicsPlan(
        objects=tuple(
            PlanObject(name="plate", trait=f"{power} {name.split()[0]}")
            for power, name in zip(p.powers, names, strict=True)
        ),
        motion=tuple(
            PlanMotion(object=n, direction="down", speed=SPEEDS[power])
            for power, n in zip(p.powers, names, strict=True)
        ),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(
            PlanRest(object=name, t=rest_time_s(ball)),
            PlanRest(object="plank", t=rest_time_s(heights, 0.002)),
        ),
        still=("left plate", "right plate"),
    )  # fmt: skip
    return f"A ball lies on a plank on two pillars of ice over two plates.{props.CAMERA}", plan


def label_pillars(p: Pillars, states: list[Any]) -> Labels:
    ball = np.array([s[3][:2] for s in states])
    rolled = float(np.ptp(ball[:, 0])) > 0.05
    return props.labels_of(
        speed=props.mean_speed(ball), movers=2 + rolled, interactions=1 + rolled, alike=True, soft=True,
        parts=4 * rolled,  # melting, tilting, rolling, falling
    )  # fmt: skip


def backdrop_pillars(p: Pillars, size_px: int) -> Canvas:
    return dim_room(size_px, p.setting.room)


def draw_pillars(canvas: Canvas, p: Pillars, state: Any) -> None:
    t, *heights, (x, y, spin) = state
    is_on = t >= p.on_s
    for place, height, start, power in zip(XS, heights, p.heights, p.powers, strict=True):
        glow = HEAT_GLOW[power]
        canvas.box(place, PLATE_Y + 0.035, 0.3, 0.07, glow if is_on else shade(glow, 0.42))
        melted = (start - height) / start
        if melted > 0.02:
            canvas.ellipse(place, PLATE_Y + 0.004, PILLAR * (0.5 + 0.5 * melted), 0.02, (86, 150, 232))
        if height > 0.005:
            canvas.box(place, PLATE_Y - height / 2, PILLAR, height, (168, 206, 232))
            canvas.box(place, PLATE_Y - height / 2, PILLAR * 0.8, height * 0.96, (226, 243, 252))
    tilt, middle = plank(list(heights))
    cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
    canvas.box(0.5 + PLANK[1] / 2 * sin, middle - PLANK[1] / 2 * cos, *PLANK, (196, 142, 84), angle_rad=tilt)
    canvas.ball(x, y, RADIUS, COLORS[p.ball], spin)
    props.draw_dial(canvas, 0.5, 0.13, p.on_s - t)


KINDS: Final = (
    Kind(
        name="ice-pillars",
        category=CATEGORY,
        sample=sample_pillars,
        vary=lambda p, rng: nudged(p, rng, {"on_s": 0.05, "ball_at": 0.003}),
        simulate=simulate_pillars,
        describe=describe_pillars,
        backdrop=backdrop_pillars,
        draw=draw_pillars,
        label=label_pillars,
        breaks=("passes through",),
    ),
)
