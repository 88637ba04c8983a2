"""A rigid-body scene: the stick of a turning platform topples a row of blocks, with or without a wide gap.

Physics by pymunk under weaker gravity than in the other rigid scenes, so that the chain reaches well into the
answer. Every fact of the plan is in the picture: the sense of turning, the row's side, its gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pymunk

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, Color, room, shade
from engine.demo.scenes.rigid import (
    CATEGORY,
    FLOOR_Y,
    add_box,
    contact_time_s,
    side,
    space_with_table,
    speed_word,
)
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

STEPS: Final = 15  # per frame: 120 Hz
STEP_S: Final = 1.0 / (FPS * STEPS)
NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six")
INK: Final[Color] = (46, 40, 44)
BRIEF: Final = (
    "A stick on a rotating platform sweeps towards a row of blocks on a table. "
    "Static shot with no camera movement."
)
SLOW_GRAVITY: Final = 0.8  # world units/s^2
STICK: Final = 0.2  # from the axis to the tip
TIP: Final = 0.02  # radius
STICK_HEIGHT: Final = 0.19  # above the table
DEPTH: Final = 0.3  # how much of a depth is seen, as height in the picture
BLOCK: Final = (0.05, 0.26)
PITCHES: Final = {3: 0.125, 4: 0.105, 5: 0.09, 6: 0.08}  # from block to block, by their number
GAP: Final = 0.34  # more than a block's height: the chain ends here
FIRST_FACE: Final = 0.07  # from the axis, along the row
HIT_PHASE: Final = float(np.arcsin((FIRST_FACE - TIP) / STICK))
REACH: Final = 0.84  # rad: beyond it the tip is too far from the row's line to touch a block


@dataclass(frozen=True, slots=True, kw_only=True)
class Turntable:
    """The row touches the tip's circle in front of the axis or behind it, as the sense of turning asks."""

    room: int
    colors: tuple[str, ...]
    disc_color: str
    sign: float  # where the row lies, seen from the axis
    clockwise: bool  # seen from above, as in the picture
    speed: float  # rad/s
    hit_s: float  # the tip reaches the first block, seconds after the switch
    count: int
    beyond_gap: int  # blocks behind the wide gap; 0: no gap

    @property
    def axis_x(self) -> float:
        return 0.5 - 0.3 * self.sign

    @property
    def front(self) -> float:
        """+1: the row is nearer to the camera than the axis; -1: farther."""
        return 1.0 if (self.sign > 0) != self.clockwise else -1.0

    @property
    def block_xs(self) -> list[float]:
        steps = np.arange(self.count) * PITCHES[self.count]
        steps[self.count - self.beyond_gap :] += GAP - PITCHES[self.count]
        return [self.axis_x + self.sign * (FIRST_FACE + BLOCK[0] / 2 + float(step)) for step in steps]


def sample_turntable(rng: Rng) -> Turntable:
    speed = float(choice(rng, rng.uniform(0.36, 0.46), rng.uniform(0.62, 0.78), rng.uniform(1.05, 1.25)))
    count = int(rng.integers(3, 7))
    return Turntable(
        room=int(rng.integers(4)),
        colors=tuple(str(name) for name in rng.permutation(list(COLORS))),
        disc_color=str(choice(rng, *COLORS)),
        sign=float(choice(rng, -1.0, 1.0)),
        clockwise=bool(rng.integers(2)),
        speed=speed,
        hit_s=float(rng.uniform(0.2, min(2.2, 5.4 / speed - 3.0))),  # not already hit a turn earlier
        count=count,
        beyond_gap=int(choice(rng, 0, rng.integers(1, count))),
    )


def simulate_turntable(p: Turntable) -> list[Any]:
    """States (phase, ((x, y, angle) per block)); at phase 0 the tip is on the row's line, moving along it."""
    space = space_with_table(friction=1.5)
    space.gravity = (0.0, SLOW_GRAVITY)
    blocks = [add_box(space, x, *BLOCK, 0.4, 0.7) for x in p.block_xs]
    tip = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
    shape = pymunk.Circle(tip, TIP)
    shape.friction, shape.elasticity = 0.2, 0.0
    space.add(tip, shape)
    phase = HIT_PHASE - p.speed * (p.hit_s + SWITCH / FPS)
    states: list[Any] = []
    for _ in range(NUM_FRAMES):
        states.append((phase, tuple((*block.position, block.angle) for block in blocks)))
        for _ in range(STEPS):
            along, away = p.sign * STICK * math.sin(phase), math.cos(phase)
            tip.position = (p.axis_x + along, FLOOR_Y - STICK_HEIGHT if away > math.cos(REACH) else -5.0)
            tip.velocity = (p.sign * STICK * away * p.speed, 0.0)
            space.step(STEP_S)
            phase += p.speed * STEP_S
    return states


def fall_times_s(states: list[Any]) -> list[float | None]:
    """Per block: when it leans by more than 0.5 rad, seconds after the switch; None if it keeps standing."""
    angles = np.abs([[block[2] for block in blocks] for _, blocks in states])
    return [contact_time_s(-column, -0.5) if column[-1] > 0.5 else None for column in angles.T]


def describe_turntable(p: Turntable, states: list[Any]) -> tuple[str, PhysicsPlan]:
    names = [f"{color} block" for color in p.colors[: p.count]]
    falls = [t for t in fall_times_s(states) if t is not None]
    standing = p.count - len(falls)
    events = [PlanEvent(t=max(0.0, round(p.hit_s * FPS) / FPS), what=f"the stick hits the {names[0]}")]
    if falls:
        events.append(PlanEvent(t=falls[0], what=f"the {names[0]} falls to the {side(p.sign)}"))
    if len(falls) > 1:
        events.append(PlanEvent(t=max(falls), what=f"the {names[len(falls) - 1]} falls as the last one"))
    tracks = np.array([np.ravel(blocks) for _, blocks in states])
    rest = rest_time_s(tracks)
    if standing:
        left = "block keeps" if standing == 1 else "blocks keep"
        what = f"the chain stops at the gap and {NUMBERS[standing]} {left} standing"
        events.append(PlanEvent(t=min(5.0, max(falls, default=p.hit_s) + 0.25), what=what))
    turn = "clockwise" if p.clockwise else "counterclockwise"
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="platform", trait=f"{p.disc_color} turning"),
            PlanObject(name="blocks", trait=f"{NUMBERS[p.count]} tall"),
        ),
        motion=(PlanMotion(object="platform", direction=turn, speed=speed_word(p.speed * STICK)),),
        events=tuple(events),
        rest=(PlanRest(object="platform", t=None), PlanRest(object="row of blocks", t=rest)),
        still=("table", *names[p.count - standing :][:2]),
    )
    return BRIEF, plan


def backdrop_turntable(p: Turntable, size_px: int) -> Canvas:
    canvas = room(size_px, p.room)
    canvas.shadow(p.axis_x, axis_foot_y(p), 0.24)
    if p.front > 0:
        draw_post(canvas, p)
    return canvas


def axis_foot_y(p: Turntable) -> float:
    return FLOOR_Y - p.front * DEPTH * STICK


def draw_post(canvas: Canvas, p: Turntable) -> None:
    metal = (92, 96, 104)
    foot = axis_foot_y(p)
    canvas.ellipse(p.axis_x, foot, 0.08, 0.024, shade(metal, 0.8))
    canvas.line(p.axis_x, foot, p.axis_x, foot - STICK_HEIGHT + 0.02, 0.04, metal)


def draw_turntable(canvas: Canvas, p: Turntable, state: Any) -> None:
    phase, blocks = state
    if p.front > 0:
        draw_stick(canvas, p, phase)
    for name, (x, y, angle) in zip(p.colors, blocks, strict=False):
        lean = abs(float(np.sin(angle)))
        wide = BLOCK[0] * 0.8 + lean * BLOCK[1] * 0.55
        canvas.ellipse(x, FLOOR_Y + 0.006, wide, 0.2 * wide, (20, 20, 30), alpha=0.2)
        canvas.box(x, y, *BLOCK, shade(COLORS[name], 0.66), angle_rad=angle)
        canvas.box(x, y, BLOCK[0] * 0.72, BLOCK[1] * 0.94, COLORS[name], angle_rad=angle)
    if p.front < 0:
        draw_post(canvas, p)
        draw_stick(canvas, p, phase)


def draw_stick(canvas: Canvas, p: Turntable, phase: float) -> None:
    """The disc, one half of it pale so that its turning is seen, and the stick on top."""
    color, x, y = COLORS[p.disc_color], p.axis_x, axis_foot_y(p) - STICK_HEIGHT
    radius = 0.125
    canvas.ellipse(x, y + 0.026, radius, radius * DEPTH, shade(color, 0.55))
    canvas.ellipse(x, y, radius, radius * DEPTH, color)
    along, away = p.sign * float(np.sin(phase)), p.front * DEPTH * float(np.cos(phase))
    start = np.arctan2(p.front * np.cos(phase), p.sign * np.sin(phase))
    arc = start + np.linspace(0.0, np.pi, 16)
    half = [(x + radius * float(np.cos(a)), y + radius * DEPTH * float(np.sin(a))) for a in arc]
    canvas.polygon(half, shade(color, 1.65))
    tail, tip = -0.4 * STICK, STICK
    canvas.line(x + along * tail, y + away * tail, x + along * tip, y + away * tip, 0.032, INK)
    canvas.disc(x + along * tip, y + away * tip, TIP * 1.2, INK)
    canvas.disc(x, y, 0.024, shade(color, 0.5))


KINDS: Final = (
    Kind(
        name="rotating-stick-blocks",
        category=CATEGORY,
        sample=sample_turntable,
        vary=lambda p, rng: nudged(p, rng, {"speed": 0.01 * p.speed, "hit_s": 0.06}),
        simulate=simulate_turntable,
        describe=describe_turntable,
        backdrop=backdrop_turntable,
        draw=draw_turntable,
    ),
)
