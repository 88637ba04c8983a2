"""Magnet scenes: a bar magnet on a moving rod comes near a free magnet or a steel ball on a table.

The rod hangs from a carriage whose stop on the rail shows where the motion ends. Whether the free body is
drawn in or pushed off is told by the facing poles alone: both kinds have one brief and one way of sampling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Rng, choice, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, Color, room, shade
from engine.demo.scenes.rigid import FLOOR_Y, SUBSTEPS, side, speed_word
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

CATEGORY: Final = "Magnetism"
BRIEF: Final = (
    "A bar magnet on a rod moves along a table towards another object. Static shot with no camera movement."
)
STEP_S: Final = 1.0 / (FPS * SUBSTEPS)
BAR: Final = (0.27, 0.15)  # length, height
BALL_RADIUS: Final = 0.085
REACH: Final = 0.14  # gap at which the force overcomes the friction of a free body at rest
POLE_DEPTH: Final = 0.05  # the poles lie this deep behind the faces, both together
FRICTION: Final = 0.25  # world units/s^2
DRAG: Final = 3.0  # 1/s: without it the pushed body would slip and stick in turns
CARRIAGE: Final = (0.14, 0.1)
STOP_WIDTH: Final = 0.06
RAIL_Y: Final = 0.4
STEEL: Final[Color] = (74, 78, 88)
METAL: Final[Color] = (92, 96, 104)
INK: Final[Color] = (46, 40, 44)
POLES: Final[dict[str, Color]] = {"N": COLORS["red"], "S": COLORS["blue"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnets:
    room: int
    leading: str  # pole of the moved magnet that faces the free body: "N" or "S"
    stop_color: str
    like: bool  # like poles face each other
    free: str  # "magnet" or "ball"
    sign: float  # direction of the moved magnet on screen
    speed: float
    near_s: float  # the gap shrinks to REACH, seconds after the switch
    stop_s: float  # the carriage meets its stop
    free_x: float

    @property
    def free_half(self) -> float:
        return BAR[0] / 2 if self.free == "magnet" else BALL_RADIUS

    def mover_x(self, t: float) -> float:
        near_x = self.free_x - self.sign * (BAR[0] / 2 + REACH + self.free_half)
        return near_x + self.sign * self.speed * (min(t, self.stop_s) - self.near_s)


def sample_magnets(rng: Rng, like: bool) -> Magnets:
    sign = float(choice(rng, -1.0, 1.0))
    low, high, latest_s = choice(rng, (0.06, 0.075, 2.0), (0.11, 0.135, 1.0), (0.178, 0.19, 0.3))
    speed = float(rng.uniform(low, high))
    near_s = float(rng.uniform(0.1, latest_s))
    path = float(rng.uniform(0.06, 0.22))  # of the mover from the first effect to its stop
    stop_s = near_s + max(0.9, path / speed)
    return Magnets(
        room=int(rng.integers(4)),
        leading=str(choice(rng, "N", "S")),
        stop_color=str(choice(rng, "green", "purple", "orange")),
        like=like,
        free="magnet" if like else str(choice(rng, "magnet", "ball")),
        sign=sign,
        speed=speed,
        near_s=near_s,
        stop_s=stop_s + 1.2 if 4.3 < stop_s < 5.5 else stop_s,
        free_x=0.5 + sign * float(rng.uniform(0.1, 0.16)),
    )


def vary_magnets(p: Magnets, rng: Rng) -> Magnets:
    """The rod sets out a little earlier or later; its stop stays where it is."""
    late_s = float(rng.normal(0.0, 0.08))
    return replace(p, near_s=p.near_s + late_s, stop_s=p.stop_s + late_s)


def simulate_magnets(p: Magnets) -> list[Any]:
    """States (mover x, free x, spin of a free ball).

    The force between facing poles falls off as 1/(gap + POLE_DEPTH)^3, between the laws of two near poles
    (exponent 2) and two far dipoles (exponent 4); per unit mass its strength is such that at REACH it equals
    the Coulomb friction FRICTION; DRAG adds a
    viscous part. Semi-implicit Euler at 240 Hz; friction never turns the velocity round,
    bodies that touch stay together. The rod moves its magnet steadily whatever the force.
    """
    strength = FRICTION * (REACH + POLE_DEPTH) ** 3 * (1.0 if p.like else -1.0)
    x, v, stuck = p.free_x, 0.0, False
    apart = BAR[0] / 2 + p.free_half
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        t = (frame - SWITCH) / FPS
        states.append((p.mover_x(t), x, (x - p.free_x) / BALL_RADIUS))
        for i in range(1, SUBSTEPS + 1):
            mover = p.mover_x(t + i * STEP_S)
            gap = p.sign * (x - mover) - apart
            if stuck or gap <= 0.0:
                stuck, x = True, mover + p.sign * apart
                continue
            v += p.sign * strength / (gap + POLE_DEPTH) ** 3 * STEP_S
            v -= float(np.sign(v)) * min(abs(v), (FRICTION + DRAG * abs(v)) * STEP_S)
            x += v * STEP_S
    return states


def describe_magnets(p: Magnets, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array(states)
    names = ("left", "right") if p.sign > 0 else ("right", "left")
    mover, free = f"{names[0]} magnet", "steel ball" if p.free == "ball" else f"{names[1]} magnet"
    start = first_time_s(np.abs(track[:, 1] - p.free_x) > 0.006)
    events = []
    if p.like:
        what = f"the poles repel and the {free} is pushed {side(p.sign)}"
        events.append(PlanEvent(t=start, what=what))
    else:
        gap = np.abs(track[:, 1] - track[:, 0]) - BAR[0] / 2 - p.free_half
        events.append(PlanEvent(t=start, what=f"the {free} is attracted and jumps {side(-p.sign)}"))
        touch = first_time_s(gap < 0.004)
        along = f" and moves {side(p.sign)} with it" if touch < p.stop_s - 0.1 else ""
        events.append(PlanEvent(t=touch, what=f"the {free} sticks to the {mover}{along}"))
    if p.stop_s <= 5.0:
        events.append(PlanEvent(t=p.stop_s, what=f"the {mover} stops at the end of its path"))
    facing = "north" if p.leading == "N" else "south"
    other = facing if p.like else "south" if p.leading == "N" else "north"
    target = (
        PlanObject(name="ball", trait="steel")
        if p.free == "ball"
        else PlanObject(name="magnet", trait=f"{names[1]} {other} pole first")
    )
    speed = speed_word(p.speed) if p.like else "fast"
    plan = PhysicsPlan(
        objects=(PlanObject(name="magnet", trait=f"{names[0]} {facing} pole first"), target),
        motion=(
            PlanMotion(object=mover, direction=side(p.sign), speed=speed_word(p.speed)),
            PlanMotion(object=free, direction=side(p.sign if p.like else -p.sign), speed=speed),
        ),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=tuple(
            PlanRest(object=name, t=rest_time_s(track[:, [i]])) for i, name in enumerate((mover, free))
        ),
        still=("table", "rail"),
    )
    return BRIEF, plan


def first_time_s(holds: np.ndarray) -> float:
    """Seconds after the switch of the first frame for which `holds`, kept within 0..5."""
    index = int(np.argmax(holds)) if holds.any() else NUM_FRAMES - 1
    return float(np.clip((index - SWITCH) / FPS, 0.0, 5.0))


def backdrop_magnets(p: Magnets, size_px: int) -> Canvas:
    canvas = room(size_px, p.room)
    canvas.line(-0.1, RAIL_Y, 1.1, RAIL_Y, 0.028, shade(METAL, 1.25))
    stop_x = p.mover_x(p.stop_s) + p.sign * (CARRIAGE[0] + STOP_WIDTH) / 2
    canvas.box(stop_x, RAIL_Y, STOP_WIDTH, 0.15, shade(COLORS[p.stop_color], 0.7))
    canvas.box(stop_x, RAIL_Y, STOP_WIDTH * 0.7, 0.13, COLORS[p.stop_color])
    return canvas


def draw_magnets(canvas: Canvas, p: Magnets, state: Any) -> None:
    mover_x, free_x, spin = state
    for x, half in ((mover_x, BAR[0] / 2), (free_x, p.free_half)):
        canvas.shadow(x, FLOOR_Y + 0.008, half * 2.7)
    canvas.line(mover_x, RAIL_Y, mover_x, FLOOR_Y - BAR[1], 0.036, METAL)
    canvas.box(mover_x, RAIL_Y, *CARRIAGE, INK)
    canvas.box(mover_x, RAIL_Y, CARRIAGE[0] * 0.8, CARRIAGE[1] * 0.3, METAL)
    other = "S" if p.leading == "N" else "N"
    draw_bar(canvas, mover_x, p.sign, p.leading, other)
    if p.free == "ball":
        canvas.ball(free_x, FLOOR_Y - BALL_RADIUS, BALL_RADIUS, STEEL, spin)
        return
    facing, far = (p.leading, other) if p.like else (other, p.leading)
    draw_bar(canvas, free_x, -p.sign, facing, far)


def draw_bar(canvas: Canvas, x: float, sign: float, front: str, back: str) -> None:
    """A bar magnet whose pole `front` points to `sign`."""
    y, length, height = FLOOR_Y - BAR[1] / 2, BAR[0], BAR[1]
    for pole, place in ((front, sign), (back, -sign)):
        middle = x + place * length / 4
        canvas.box(middle, y, length / 2, height, shade(POLES[pole], 0.66))
        canvas.box(middle - place * 0.004, y, length / 2 - 0.014, height - 0.022, POLES[pole])
        canvas.letter(middle, y, height * 0.6, pole, (250, 250, 250))


KINDS: Final = tuple(
    Kind(
        name=name,
        category=CATEGORY,
        sample=sample,
        vary=vary_magnets,
        simulate=simulate_magnets,
        describe=describe_magnets,
        backdrop=backdrop_magnets,
        draw=draw_magnets,
    )
    for name, sample in (
        ("magnet-attracts", lambda rng: sample_magnets(rng, like=False)),
        ("magnet-repels", lambda rng: sample_magnets(rng, like=True)),
    )
)
