"""Optics: a disc slides between a lamp and a screen, and its shadow grows or shrinks over four sensors.

Which way and how fast is told by its motion, where it turns by the stops of its rail, and when a sensor goes
dark by central projection.
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
from engine.demo.scenes.wide.props import INK, METAL, Setting
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

AXIS_Y: Final = 0.46
LAMP: Final = 0.12  # distance of the lamp from its edge of the picture
SCREEN: Final = 0.85
RAIL_Y: Final = 0.86
SPREAD: Final = 0.4  # half the height of the lit part of the screen
SENSORS: Final = (-0.29, -0.14, 0.14, 0.29)
NAMES: Final = ("first", "second", "third", "last")


@dataclass(frozen=True, slots=True, kw_only=True)
class Eclipse:
    setting: Setting
    color: str
    flipped: bool  # the lamp stands on the right
    radius: float
    offset: float  # of the disc's middle above the axis
    stops: tuple[float, float]  # distances from the lamp
    start: float
    velocity: float  # positive towards the screen
    bounce: float  # of the stops: 0 holds the disc, 1 sends it back
    broken: str = ""
    broken_s: float = 0.0


def sample_eclipse(rng: Rng) -> Eclipse:
    outward = bool(rng.integers(2))
    stops = (float(rng.uniform(0.17, 0.24)), float(rng.uniform(0.54, 0.62)))
    speed, begin = float(rng.uniform(0.06, 0.15)), float(rng.uniform(0.0, 0.1))
    return Eclipse(
        setting=replace(props.sample_setting(rng), bystander=""),
        color=str(choice(rng, *COLORS)),
        flipped=bool(rng.integers(2)),
        radius=float(rng.uniform(0.07, 0.1)),
        offset=float(choice(rng, 0.0, rng.uniform(-0.05, 0.05))),
        stops=stops,
        start=stops[0] + begin if outward else stops[1] - begin,
        velocity=speed if outward else -speed,
        bounce=float(choice(rng, 0.0, 1.0, 1.0)),
    )


def simulate_eclipse(p: Eclipse) -> list[Any]:
    """States (t, distance of the disc from the lamp, (top, bottom) of its shadow, (sensor dark, ...)).

    Similar triangles: what is at distance d from the lamp is thrown to the screen at D enlarged by D / d.
    """
    x, v, step = p.start, p.velocity, 1.0 / (FPS * 10)
    bounce = 1.0 - p.bounce if p.broken == "wrong restitution" else p.bounce
    states: list[Any] = []
    for t in props.frame_times():
        zoom = (SCREEN - LAMP) / x
        shadow = (p.offset - p.radius) * zoom, (p.offset + p.radius) * zoom
        states.append((float(t), x, shadow, tuple(shadow[0] < s < shadow[1] for s in SENSORS)))
        for _ in range(10):
            x += v * step
            if not p.stops[0] <= x <= p.stops[1]:
                x, v = float(np.clip(x, *p.stops)), -bounce * v
    return states


def describe_eclipse(p: Eclipse, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track, dark = np.array([state[1] for state in states]), np.array([state[3] for state in states])
    steps = np.diff(track[SWITCH - 1 :])
    toward = 1.0 if (float(steps[0]) or p.velocity) > 0 else -1.0
    events = []
    turned = np.flatnonzero(np.abs(np.diff(steps)) > 0.003)
    if len(turned):
        act = "comes back" if p.bounce else "stays there"
        events.append(PlanEvent(t=int(turned[0]) / FPS, what=f"the disc meets the stop and {act}"))
    changes = [(i, np.flatnonzero(dark[SWITCH:, i] != dark[SWITCH - 1 : -1, i])) for i in range(len(SENSORS))]
    for i, found in [(i, found) for i, found in changes if len(found)][:2]:
        frame = int(found[0])
        word = "goes dark" if dark[SWITCH + frame, i] else "is lit again"
        events.append(PlanEvent(t=frame / FPS, what=f"the {NAMES[i]} sensor {word}"))
    size = "large" if track[-1] < 0.3 else "middle sized" if track[-1] < 0.48 else "small"
    number = int(dark[-1].sum())
    words = f"{props.NUMBERS[number]} {'sensor is' if number == 1 else 'sensors are'} dark"
    events.append(PlanEvent(t=5.0, what=f"the shadow is {size} and {words}"))
    speed, way = props.pace(2 * abs(p.velocity)), side(-toward if p.flipped else toward)
    grows = "outward" if toward < 0 else "inward"
    plan = PhysicsPlan(
        objects=(PlanObject(name="disc", trait=p.color), PlanObject(name="sensors", trait="four")),
        motion=(
            PlanMotion(object="disc", direction=way, speed=speed),
            PlanMotion(object="edge of the shadow", direction=grows, speed=speed),
        ),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(PlanRest(object="disc", t=rest_time_s(track[:, None])),),
        still=("lamp", "screen"),
    )  # fmt: skip
    return f"A disc slides on a rail between a lamp and a screen.{props.CAMERA}", plan


def label_eclipse(p: Eclipse, states: list[Any]) -> Labels:
    track = np.array([state[1] for state in states])
    turns = int((np.abs(np.diff(np.diff(track[SWITCH - 1 :]))) > 0.003).sum())
    return props.labels_of(
        speed=abs(p.velocity), movers=1, interactions=turns, alike=False, soft=True, parts=0
    )


def across(p: Eclipse, distance: float) -> float:
    """x in the picture of what is at `distance` from the lamp."""
    x = LAMP + distance
    return 1.0 - x if p.flipped else x


def backdrop_eclipse(p: Eclipse, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px, table_y=0.88)
    canvas.gradient((58, 60, 78), (44, 46, 62), 0.0, 0.88)
    canvas.box(across(p, SCREEN - LAMP), AXIS_Y, 0.05, 2 * SPREAD + 0.06, (70, 72, 84))
    canvas.box(0.5, RAIL_Y, 0.74, 0.025, METAL)
    for stop, sign in zip(p.stops, (-1.0, 1.0), strict=True):
        color = (60, 170, 90) if p.bounce else (206, 48, 40)
        canvas.box(across(p, stop + sign * 0.055), RAIL_Y - 0.02, 0.03, 0.08, color)
    return canvas


def draw_eclipse(canvas: Canvas, p: Eclipse, state: Any) -> None:
    _, distance, (top, bottom), dark = state
    lamp, screen, disc = across(p, 0.0), across(p, SCREEN - LAMP), across(p, distance)
    lit = [(lamp, AXIS_Y), (screen, AXIS_Y - SPREAD), (screen, AXIS_Y + SPREAD)]
    canvas.polygon(lit, (250, 236, 170), alpha=0.55)
    low, high = (float(np.clip(edge, -SPREAD, SPREAD)) for edge in (top, bottom))
    near = p.offset - p.radius, p.offset + p.radius
    cone = [
        (disc, AXIS_Y + near[0]),
        (screen, AXIS_Y + low),
        (screen, AXIS_Y + high),
        (disc, AXIS_Y + near[1]),
    ]
    canvas.polygon(cone, (46, 48, 64))
    canvas.box(screen, AXIS_Y, 0.035, 2 * SPREAD, (255, 246, 196))
    canvas.box(screen, AXIS_Y + (low + high) / 2, 0.035, high - low, (20, 20, 28))
    behind = -0.055 if p.flipped else 0.055
    for place, is_dark in zip(SENSORS, dark, strict=True):
        canvas.disc(screen + behind, AXIS_Y + place, 0.042, INK)
        canvas.disc(screen + behind, AXIS_Y + place, 0.034, (70, 40, 40) if is_dark else (90, 220, 110))
    canvas.line(disc, RAIL_Y, disc, AXIS_Y + p.offset, 0.02, METAL)
    canvas.ellipse(disc, AXIS_Y + p.offset, 0.035, p.radius, shade(COLORS[p.color], 0.6))
    canvas.ellipse(disc, AXIS_Y + p.offset, 0.025, 0.9 * p.radius, COLORS[p.color])
    canvas.disc(lamp, AXIS_Y, 0.06, (255, 226, 90))


KINDS: Final = (
    Kind(
        name="disc-and-screen",
        category=CATEGORY,
        sample=sample_eclipse,
        vary=lambda p, rng: nudged(p, rng, {"start": 0.004, "velocity": 0.02 * abs(p.velocity)}),
        simulate=simulate_eclipse,
        describe=describe_eclipse,
        backdrop=backdrop_eclipse,
        draw=draw_eclipse,
        label=label_eclipse,
        breaks=("wrong restitution",),
    ),
)
