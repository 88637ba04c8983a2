"""Magnetism: a magnet runs along a row of five compasses, whose needles follow it one after another.

Whether they turn towards it or away is told by its pole, how soon by its speed, and where they point in the
end by where its rail stops; far from it they point up the picture, as the earth's field does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, SWITCH, Kind, Labels, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import Canvas, shade
from engine.demo.scenes.magnets import CATEGORY, POLES
from engine.demo.scenes.rigid import side
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import INK, METAL, NUMBERS, Setting
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

COUNT: Final = 5
XS: Final = tuple(0.12 + 0.19 * i for i in range(COUNT))
ROW_Y: Final = 0.68
MAGNET_Y: Final = 0.36
BAR: Final = (0.1, 0.2)
RADIUS: Final = 0.086
EARTH: Final = 1.0  # field strength, of which all others are multiples
POLE: Final = 0.16  # of the near pole, at a distance of one world unit: it falls off with the square
FOLLOW: Final = 5.0  # 1/s: needles turn towards the field at this rate times the sine of the angle
NAMES: Final = ("first", "second", "third", "fourth", "fifth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compasses:
    setting: Setting
    sign: float
    pole: str  # of the magnet, that faces the row
    speed: float
    start_x: float
    stop_x: float
    returns: bool  # at the stop: it comes back
    broken: str = ""
    broken_s: float = 0.0


def sample_compasses(rng: Rng) -> Compasses:
    sign, speed = float(choice(rng, -1.0, 1.0)), float(rng.uniform(0.1, 0.24))
    first = 0.5 - sign * float(rng.uniform(0.5, 0.62))  # of the magnet at the switch, less a second's way
    return Compasses(
        setting=replace(props.sample_setting(rng), bystander=""),
        sign=sign,
        pole=str(choice(rng, "N", "S")),
        speed=speed,
        start_x=first - sign * speed * 2.0,
        stop_x=0.5 + sign * float(rng.uniform(-0.22, 0.22)),
        returns=bool(rng.integers(2)),
    )


def magnet_x(p: Compasses, t: float) -> float:
    way, path = p.speed * (t + SWITCH / FPS), abs(p.stop_x - p.start_x)
    if way > path:
        way = 2 * path - way if p.returns else path
    return p.start_x + p.sign * way


def simulate_compasses(p: Compasses) -> list[Any]:
    """States (t, magnet x, (angle per needle)); angles of the red end, 0 upwards, positive to the right.

    The field at a compass is the earth's and the near pole's, strength POLE / r^2 along the line to it; a
    needle turns with a rate proportional to the sine of the angle to the field (strong damping).
    """
    angles, step = np.zeros(COUNT), 1.0 / (FPS * 10)
    pull = 1.0 if p.pole == "S" else -1.0  # a needle's red end is its north pole
    states: list[Any] = []
    for t in props.frame_times():
        states.append((float(t), magnet_x(p, float(t)), tuple(map(float, angles))))
        for i in range(10):
            now = float(t) + i * step
            sense = -pull if p.broken == "force turned round" and now >= p.broken_s else pull
            dx, dy = magnet_x(p, now) - np.array(XS), ROW_Y - MAGNET_Y - BAR[1] / 2
            far = np.hypot(dx, dy)
            field_x, field_up = sense * POLE * dx / far**3, EARTH + sense * POLE * dy / far**3
            strength = np.hypot(field_x, field_up)
            angles = angles + FOLLOW * strength / 2 * np.sin(np.arctan2(field_x, field_up) - angles) * step
    return states


def describe_compasses(p: Compasses, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array([state[1] for state in states])
    order = range(COUNT) if p.sign > 0 else range(COUNT)[::-1]
    passes = []
    for number, i in enumerate(order):
        start = props.first_s(p.sign * (track - XS[i]) >= 0)
        if start is not None and p.sign * (track[SWITCH - 1] - XS[i]) < 0:
            passes.append((start, number))
    events = [
        PlanEvent(t=t, what=f"the magnet is over the {NAMES[number]} compass")
        for t, number in passes[:1] + passes[1:][-1:]
    ]
    stop = props.first_s(np.abs(track - p.stop_x) < 0.012)
    if stop is not None:
        act = "comes back" if p.returns else "stays there"
        events.append(PlanEvent(t=stop, what=f"the magnet meets its stop and {act}"))
    needles = np.array([state[2] for state in states])
    turned = int((np.abs(np.angle(np.exp(1j * needles[-1]))) > 0.5).sum())
    words = f"{NUMBERS[turned]} {'needle is' if turned == 1 else 'needles are'} turned"
    events.append(PlanEvent(t=5.0, what=f"the magnet is {props.place(float(track[-1]))} and {words}"))
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="compasses", trait="row of five"),
            PlanObject(name="pole", trait="south" if p.pole == "S" else "north"),
        ),
        motion=(PlanMotion(object="magnet", direction=side(p.sign), speed=props.pace(p.speed)),),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(PlanRest(object="row of needles", t=rest_time_s(needles * RADIUS)),),
        still=("row of compasses",),
    )
    return f"A magnet moves on a rail above compasses.{props.CAMERA}", plan


def label_compasses(p: Compasses, states: list[Any]) -> Labels:
    needles = np.array([state[2] for state in states])
    moved = int((np.ptp(needles[SWITCH:], axis=0) > 0.3).sum())
    return props.labels_of(
        speed=p.speed, movers=1 + moved, interactions=1 + p.returns, alike=True, soft=False, parts=moved
    )


def backdrop_compasses(p: Compasses, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px, table_y=0.5)
    canvas.box(0.5, 0.1, 1.2, 0.035, METAL)
    canvas.box(p.stop_x + p.sign * 0.09, 0.1, 0.04, 0.1, (70, 170, 220) if p.returns else (206, 48, 40))
    for x in XS:
        canvas.disc(x, ROW_Y, RADIUS, INK)
        canvas.disc(x, ROW_Y, 0.88 * RADIUS, (240, 240, 232))
    return canvas


def draw_compasses(canvas: Canvas, p: Compasses, state: Any) -> None:
    _, magnet, angles = state
    for x, angle in zip(XS, angles, strict=True):
        dx, dy = 0.78 * RADIUS * float(np.sin(angle)), -0.78 * RADIUS * float(np.cos(angle))
        wide = 0.42 * RADIUS
        across, up = -dy / RADIUS * wide, dx / RADIUS * wide
        sides = [(x + across, ROW_Y + up), (x - across, ROW_Y - up)]
        canvas.polygon([(x + dx, ROW_Y + dy), *sides], (206, 40, 36))
        canvas.polygon([(x - dx, ROW_Y - dy), *sides], (120, 124, 132))
        canvas.disc(x, ROW_Y, 0.016, INK)
    canvas.line(magnet, 0.1, magnet, MAGNET_Y - BAR[1] / 2, 0.03, INK)
    other = "S" if p.pole == "N" else "N"
    for place, pole in ((-0.25, other), (0.25, p.pole)):
        canvas.box(magnet, MAGNET_Y + place * BAR[1], BAR[0], BAR[1] / 2, POLES[pole])
        canvas.letter(magnet, MAGNET_Y + place * BAR[1], 0.06, pole, (255, 255, 255))
    canvas.box(magnet, 0.1, 0.12, 0.05, shade(INK, 0.8))


KINDS: Final = (
    Kind(
        name="compass-row",
        category=CATEGORY,
        sample=sample_compasses,
        vary=lambda p, rng: nudged(p, rng, {"start_x": 0.006, "speed": 0.015 * p.speed}),
        simulate=simulate_compasses,
        describe=describe_compasses,
        backdrop=backdrop_compasses,
        draw=draw_compasses,
        label=label_compasses,
        breaks=("force turned round",),
    ),
)
