"""Solid mechanics: a ball is let go on a ramp, flies off its lip, and lands in a bucket or beside it.

When is told by the dial of the gate, how far by where the ball waits, what becomes of it by its material and
by where the bucket stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Labels, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, shade
from engine.demo.scenes.rigid import CATEGORY, side
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import INK, METAL, STEP_S, SUBSTEPS, Setting
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

GRAVITY: Final = 0.9  # world units/s^2
ROLLING: Final = 5 / 7  # of a solid ball's weight along a slope: the rest turns it
LENGTH: Final = 0.4  # of the slope
SLOPE: Final = 0.6  # rad
LIP_Y: Final = 0.5
FLOOR_Y: Final = 0.9
RADIUS: Final = 0.055
BOUNCE: Final = {"rubber": 0.78, "wooden": 0.45, "clay": 0.0}
SLOWING: Final = 0.06  # world units/s^2, of rolling on the floor
BUCKET: Final = (0.17, 0.17)  # width, height


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    setting: Setting
    sign: float
    material: str
    color: str
    wait: float  # distance of the ball from the lip, along the slope
    lip_x: float
    bucket_x: float
    release_s: float
    broken: str = ""
    broken_s: float = 0.0


def sample_ramp(rng: Rng) -> Ramp:
    sign = float(choice(rng, -1.0, 1.0))
    lip = 0.5 - sign * float(rng.uniform(0.1, 0.16))
    return Ramp(
        setting=replace(props.sample_setting(rng), bystander=""),
        sign=sign,
        material=str(choice(rng, *BOUNCE)),
        color=str(choice(rng, *COLORS)),
        wait=float(rng.uniform(0.12, 0.36)),
        lip_x=lip,
        bucket_x=lip + sign * float(rng.uniform(0.14, 0.36)),
        release_s=float(rng.uniform(-0.4, 2.8)),
    )


def simulate_ramp(p: Ramp) -> list[Any]:
    """States (t, x, y, spin, in the bucket).

    On the slope the acceleration is 5/7 g sin(slope); in the air it is free fall; an impact on the floor
    leaves BOUNCE of the vertical speed, and a slow one ends in rolling, slowed evenly. What comes down
    through the mouth of the bucket stays in it.
    """
    along, speed = -p.wait, 0.0  # on the slope, 0 at the lip
    x, y, vx, vy, flies, inside, rolls = 0.0, 0.0, 0.0, 0.0, False, False, False
    bounce = BOUNCE[p.material]
    if p.broken == "wrong restitution":
        bounce = 0.9 if bounce < 0.5 else 0.0
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        t0 = (frame - SWITCH) / FPS
        if not flies:
            x, y = slope_point(p, along)
        states.append((t0, x, y, p.sign * (x - p.lip_x) / RADIUS, inside))
        for step in range(SUBSTEPS):
            t = t0 + step * STEP_S
            if t < p.release_s or (p.broken == "stops in the air" and flies and t > p.broken_s):
                continue
            if not flies:
                speed += ROLLING * GRAVITY * float(np.sin(SLOPE)) * STEP_S
                along += speed * STEP_S
                if along >= 0.0:
                    flies, (x, y) = True, slope_point(p, 0.0)
                    vx, vy = p.sign * speed * float(np.cos(SLOPE)), speed * float(np.sin(SLOPE))
                continue
            before = y
            vy += 0.0 if rolls else GRAVITY * STEP_S
            x, y = x + vx * STEP_S, y + vy * STEP_S
            mouth = FLOOR_Y - BUCKET[1]
            if before < mouth <= y and abs(x - p.bucket_x) < BUCKET[0] / 2 - 0.02:
                inside, vx = True, 0.0
            if y > FLOOR_Y - RADIUS and p.broken != "passes through":
                y, vy, vx = FLOOR_Y - RADIUS, -bounce * vy, vx if p.material != "clay" else 0.0
                rolls = abs(vy) < 0.08 or inside
                vy = 0.0 if rolls else vy
            if rolls:
                vx -= float(np.sign(vx)) * min(abs(vx), SLOWING * STEP_S)
            if not inside and abs(x - p.bucket_x) < BUCKET[0] / 2 + RADIUS * 0.9 and y > mouth:
                vx = -0.3 * vx  # it runs against the bucket from outside
                x = p.bucket_x + float(np.sign(x - p.bucket_x)) * (BUCKET[0] / 2 + RADIUS * 0.9)
    return states


def slope_point(p: Ramp, along: float) -> tuple[float, float]:
    """Where the ball's centre is, `along` the slope from the lip (negative: above it)."""
    cos, sin = float(np.cos(SLOPE)), float(np.sin(SLOPE))
    return p.lip_x + p.sign * (along * cos + RADIUS * sin), LIP_Y + along * sin - RADIUS * cos


def describe_ramp(p: Ramp, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array([state[1:3] for state in states])
    inside = np.array([state[4] for state in states])
    name = f"{p.color} ball" if p.material == "rubber" else f"{p.material} ball"
    events = [PlanEvent(t=props.at(p.release_s), what=f"the gate opens and the {name} rolls down the ramp")]
    lip = props.first_s(p.sign * (track[:, 0] - p.lip_x) > RADIUS)
    if lip is not None:
        events.append(PlanEvent(t=lip, what=f"the {name} flies off the ramp"))
    low = props.first_s(inside | (track[:, 1] > FLOOR_Y - RADIUS - 0.02))
    if inside[-1]:
        events.append(PlanEvent(t=low or 0.0, what=f"the {name} falls into the bucket"))
    elif low is not None:
        act = {"rubber": "bounces high", "wooden": "bounces low", "clay": "stays where it lands"}[p.material]
        events.append(PlanEvent(t=low, what=f"the {name} misses the bucket and {act}"))
        events.append(PlanEvent(t=5.0, what=f"the {name} is {props.place(float(track[-1, 0]))}"))
    speed = "fast" if p.wait > 0.24 else "medium"
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="ball", trait=name.removesuffix(" ball")),
            PlanObject(name="bucket", trait="grey"),
        ),
        motion=(PlanMotion(object=name, direction=side(p.sign), speed=speed),),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(PlanRest(object=name, t=rest_time_s(track)),),
        still=("ramp", "bucket"),
    )
    return f"A ball waits on a ramp above a bucket.{props.CAMERA}", plan


def label_ramp(p: Ramp, states: list[Any]) -> Labels:
    track = np.array([state[1:3] for state in states])
    return props.labels_of(
        speed=props.mean_speed(track), movers=1, interactions=2, alike=False, soft=False, parts=0
    )


def backdrop_ramp(p: Ramp, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px)
    top_x = p.lip_x - p.sign * LENGTH * float(np.cos(SLOPE))
    top_y = LIP_Y - LENGTH * float(np.sin(SLOPE))
    body = [(p.lip_x, LIP_Y), (top_x, top_y), (top_x, FLOOR_Y), (p.lip_x, FLOOR_Y)]
    canvas.polygon(body, shade(METAL, 1.35))
    canvas.line(top_x, top_y, p.lip_x, LIP_Y, 0.03, shade(METAL, 0.7))
    return canvas


def draw_ramp(canvas: Canvas, p: Ramp, state: Any) -> None:
    t, x, y, spin, inside = state
    props.draw_dial(canvas, 0.5 + 0.3 * p.sign, 0.17, p.release_s - t)
    if t < p.release_s:  # the gate in front of the ball
        gate_x, gate_y = slope_point(p, RADIUS * 1.25 - p.wait)
        canvas.box(gate_x, gate_y, 0.025, 0.13, (206, 48, 40), angle_rad=p.sign * SLOPE)
    left, width, height = p.bucket_x, *BUCKET
    if not inside:
        canvas.box(left, FLOOR_Y - height / 2, width, height, shade(METAL, 0.85))
        canvas.box(left, FLOOR_Y - height + 0.014, width + 0.03, 0.028, INK)
    props.draw_thing(canvas, x, y, RADIUS, p.color if p.material == "rubber" else p.material, spin)
    if inside:  # behind the bucket's wall
        canvas.box(left, FLOOR_Y - height / 2, width, height, shade(METAL, 0.85))
        canvas.box(left, FLOOR_Y - height + 0.014, width + 0.03, 0.028, INK)


KINDS: Final = (
    Kind(
        name="ramp-and-bucket",
        category=CATEGORY,
        sample=sample_ramp,
        vary=lambda p, rng: nudged(p, rng, {"release_s": 0.05, "wait": 0.003}),
        simulate=simulate_ramp,
        describe=describe_ramp,
        backdrop=backdrop_ramp,
        draw=draw_ramp,
        label=label_ramp,
        breaks=("passes through", "stops in the air", "wrong restitution"),
    ),
)
