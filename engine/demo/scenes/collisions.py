"""Two ball scenes: two balls collide on a table; a ball is dropped.

Physics by closed formulas given at each `simulate`; dropping under weak gravity, so that bounces reach well
into the answer. What decides the outcome is in the picture: sizes, and the look of rubber, wood and clay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, Color, room, shade
from engine.demo.scenes.rigid import CATEGORY, FLOOR_Y, SUBSTEPS, side, speed_word
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

STEP_S: Final = 1.0 / (FPS * SUBSTEPS)
INK: Final[Color] = (46, 40, 44)

# ---------------------------------------------------------------- two balls collide

RESTITUTION: Final = {"rubber": 0.88, "clay": 0.0}
SLIDE: Final = 0.035  # world units/s^2: how clay lumps that stick together are slowed by the table
SIZES: Final = {"big": 0.12, "middle": 0.095, "small": 0.075}


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoBalls:
    room: int
    colors: tuple[str, str]  # left, right
    material: str
    sizes: tuple[str, str]
    left_v: float
    right_v: float
    hit_s: float
    hit_x: float


def sample_two_balls(rng: Rng) -> TwoBalls:
    first, second = (str(name) for name in rng.permutation(list(COLORS))[:2])
    sign = float(choice(rng, -1.0, 1.0))
    chase = bool(rng.integers(2))
    quick = float(choice(rng, rng.uniform(0.12, 0.16), rng.uniform(0.19, 0.22)))
    if not chase:
        quick = float(choice(rng, quick, rng.uniform(0.075, 0.095)))
    other = (
        rng.uniform(0.03, 0.04) if chase else -choice(rng, rng.uniform(0.06, 0.09), rng.uniform(0.12, 0.16))
    )
    velocities = (sign * quick, sign * float(other))
    sizes: tuple[str, str] = choice(rng, ("big", "small"), ("small", "big"), ("middle", "middle"))
    return TwoBalls(
        room=int(rng.integers(4)),
        colors=(first, second),
        material=str(choice(rng, *RESTITUTION)),
        sizes=sizes,
        left_v=max(velocities),
        right_v=min(velocities),
        hit_s=float(rng.uniform(0.2, min(2.0, 0.38 / max(np.abs(velocities)) - 1.3))),
        hit_x=0.5 + float(rng.uniform(-0.05, 0.05)) - (0.08 * sign if chase else 0.0),
    )


def ball_reach(p: TwoBalls) -> float:
    """Distance of the centres along the table at contact: 2 sqrt(r1 r2); soft clay gives way a little."""
    left, right = (SIZES[size] for size in p.sizes)
    return 2.0 * float(np.sqrt(left * right)) * (0.9 if p.material == "clay" else 1.0)


def velocities_after(p: TwoBalls) -> tuple[float, float]:
    """Newton's law of restitution with momentum conserved along the table; mass is the radius cubed."""
    left, right = (SIZES[size] ** 3 for size in p.sizes)
    common = (left * p.left_v + right * p.right_v) / (left + right)
    parting = RESTITUTION[p.material] * (p.left_v - p.right_v) / (left + right)
    return common - right * parting, common + left * parting


def simulate_two_balls(p: TwoBalls) -> list[Any]:
    """States (left x, left spin, right x, right spin): uniform rolling before and after the impact.

    Lumps of clay stick together, no longer roll and slide to a stop under constant friction SLIDE.
    """
    reach, after = ball_reach(p), velocities_after(p)
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        t = (frame - SWITCH) / FPS - p.hit_s
        state: list[float] = []
        for place, before, then, size in zip((-0.5, 0.5), (p.left_v, p.right_v), after, p.sizes, strict=True):
            rolled = before * min(t, 0.0)
            moved = rolled
            if t > 0.0 and p.material == "clay":
                sliding = min(t, abs(then) / SLIDE)
                moved += then * sliding - np.sign(then) * SLIDE * sliding**2 / 2
            elif t > 0.0:
                moved += then * t
                rolled = moved
            state += [p.hit_x + place * reach + float(moved), float(rolled) / SIZES[size]]
        states.append(tuple(state))
    return states


def describe_two_balls(p: TwoBalls, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array(states)
    names = tuple(f"{color} ball" for color in p.colors)
    before, after = (p.left_v, p.right_v), velocities_after(p)
    hit = float(np.ceil(p.hit_s * FPS)) / FPS
    active = 0 if abs(p.left_v) >= abs(p.right_v) else 1
    events = [PlanEvent(t=hit, what=f"the {names[active]} hits the {names[1 - active]}")]
    if p.material == "clay":
        slides = f"slide {side(after[0])}" if abs(after[0]) > 0.03 else "stop"
        events.append(PlanEvent(t=hit, what=f"the two balls stick together and {slides}"))
    else:
        for name, old, new in zip(names, before, after, strict=True):
            action = "bounces back" if old * new < 0 else "rolls on"
            effect = (
                "stops" if abs(new) < 0.03 else f"{action} to the {side(new)} at {speed_word(abs(new))} speed"
            )
            events.append(PlanEvent(t=hit + 0.25, what=f"the {name} {effect}"))
    sizes = ["" if size == "middle" else f"{size} " for size in p.sizes]
    plan = PhysicsPlan(
        objects=tuple(
            PlanObject(name="ball", trait=f"{size}{p.material} {color}")
            for size, color in zip(sizes, p.colors, strict=True)
        ),
        motion=tuple(
            PlanMotion(object=name, direction=side(v), speed=speed_word(abs(v)))
            for name, v in zip(names, before, strict=True)
        ),
        events=tuple(events),
        rest=tuple(PlanRest(object=n, t=rest_time_s(track[:, [2 * i]])) for i, n in enumerate(names)),
        still=("table",),
    )
    return "Two balls roll on a table and meet. Static shot with no camera movement.", plan


def backdrop_two_balls(p: TwoBalls, size_px: int) -> Canvas:
    return room(size_px, p.room)


def draw_two_balls(canvas: Canvas, p: TwoBalls, state: Any) -> None:
    balls = list(zip((state[:2], state[2:]), p.sizes, p.colors, strict=True))
    for (x, _), size, _ in balls:
        canvas.shadow(x, FLOOR_Y + 0.008, SIZES[size] * 2.6)
    for (x, spin), size, color in balls:
        radius = SIZES[size]
        if p.material == "clay":
            draw_clay(canvas, x, radius, radius, radius, dull(COLORS[color]), spin)
        else:
            canvas.ball(x, FLOOR_Y - radius, radius, COLORS[color], spin)


def dull(color: Color) -> Color:
    """The matte, darkened version of a colour that clay is drawn in."""
    red, green, blue = (round(0.55 * channel + 0.15 * 108) for channel in color)
    return red, green, blue


def draw_clay(canvas: Canvas, x: float, lift: float, rx: float, ry: float, color: Color, spin: float) -> None:
    """A matte lump whose centre is `lift` above the table: dents, no highlight."""
    y = FLOOR_Y - lift
    canvas.ellipse(x, y, rx, ry, shade(color, 0.8))
    canvas.ellipse(x, y - 0.05 * ry, 0.9 * rx, 0.9 * ry, color)
    for turn, far in ((0.3, 0.55), (2.2, 0.5), (4.3, 0.6)):
        a = spin + turn
        canvas.ellipse(
            x + far * rx * np.cos(a), y + far * ry * np.sin(a), 0.2 * rx, 0.16 * ry, shade(color, 0.6)
        )


# ---------------------------------------------------------------- a ball is dropped

DROP_GRAVITY: Final = 0.7  # world units/s^2
BOUNCE: Final = {"rubber": 0.86, "wooden": 0.52, "clay": 0.0}
GRIP: Final = 0.7  # share of the sideways speed that a bounce leaves
ROLLING: Final = 1.5  # 1/s: rolling resistance on the table
WOOD: Final[Color] = (132, 84, 44)
CLAY: Final[Color] = (82, 86, 104)


@dataclass(frozen=True, slots=True, kw_only=True)
class BallDrop:
    room: int
    color: str  # of a rubber ball; wood and clay have their own
    material: str
    radius: float
    height: float  # of the ball's lowest point above the table
    release_s: float
    x: float  # where it is let go
    drift: float  # sideways velocity of the gripper, which stops when it opens


def sample_ball_drop(rng: Rng) -> BallDrop:
    material = str(choice(rng, "rubber", *BOUNCE))  # rubber moves longest: twice as often
    drift = float(choice(rng, -1.0, 0.0, 1.0)) * float(rng.uniform(0.05, 0.08))
    return BallDrop(
        room=int(rng.integers(4)),
        color=str(choice(rng, *COLORS)),
        material=material,
        radius=float(rng.uniform(0.08, 0.1)),
        height=float(rng.uniform(0.42, 0.56)),
        release_s=float(rng.uniform(-1.5, -0.8) if material == "rubber" else rng.uniform(-0.8, -0.65)),
        x=0.5 - 2.2 * drift + float(rng.uniform(-0.06, 0.06)),
        drift=drift,
    )


def simulate_ball_drop(p: BallDrop) -> list[Any]:
    """States (x, lift of the centre, spin, gripper x, opening 0..1, flatness 0..1), semi-implicit Euler.

    Free fall under DROP_GRAVITY; an impact turns the vertical velocity v into -e v (coefficient of
    restitution e, BOUNCE) and clay sticks where it lands; a bounce slower than 0.07 ends in rolling.
    """
    x, lift, spin, flat = p.x, p.height, 0.0, 0.0
    vx, vy, rolls = p.drift, 0.0, False
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        t = (frame - SWITCH) / FPS
        held = min(t - p.release_s, 0.0)
        opening = float(np.clip((t - p.release_s) / 0.25, 0.0, 1.0))
        states.append((x + p.drift * held, lift + p.radius, spin, p.x + p.drift * held, opening, flat))
        for i in range(SUBSTEPS):
            if t + i * STEP_S < p.release_s:
                continue
            if rolls:
                vx -= ROLLING * vx * STEP_S
            else:
                vy -= DROP_GRAVITY * STEP_S
                lift += vy * STEP_S
            x += vx * STEP_S
            spin += vx / p.radius * STEP_S
            if lift < 0.0 and not rolls:
                lift, vy, vx = 0.0, -BOUNCE[p.material] * vy, GRIP * vx
                rolls = vy < 0.07
                if p.material == "clay":
                    vx, flat = 0.0, 1.0
    return states


def bounce_times_s(p: BallDrop, states: list[Any]) -> list[float]:
    """When the falling ball turns upwards or stops, seconds after the switch, negative in the prefix."""
    lifts = np.array([state[1] for state in states])
    falls = np.diff(lifts)
    times = [(i + 1 - SWITCH) / FPS for i in range(len(falls) - 1) if falls[i] < -0.004 <= falls[i + 1]]
    return [t for t in times if t > p.release_s + 0.25]


def describe_ball_drop(p: BallDrop, states: list[Any]) -> tuple[str, PhysicsPlan]:
    trait = f"rubber {p.color}" if p.material == "rubber" else p.material
    ball = f"{trait} ball"
    coming = [t for t in bounce_times_s(p, states) if 0.0 <= t <= 5.0]
    track = np.array([state[:2] for state in states])
    rest = rest_time_s(track)
    if p.material == "clay":
        events = [PlanEvent(t=t, what=f"the {ball} hits the table and stays flat") for t in coming]
    else:
        word = {"rubber": "high", "wooden": "low"}[p.material]
        events = [PlanEvent(t=t, what=f"the {ball} bounces {word}") for t in coming[:3]]
        if rest is not None:
            events.append(PlanEvent(t=rest, what=f"the {ball} lies still"))
    vertical = float(track[SWITCH, 1] - track[SWITCH - 1, 1])
    speed = speed_word(abs(vertical) * FPS / 3)  # a fall is faster than what rolls: its own scale
    plan = PhysicsPlan(
        objects=(PlanObject(name="ball", trait=trait), PlanObject(name="gripper", trait="open")),
        motion=(PlanMotion(object=ball, direction="up" if vertical > 0 else "down", speed=speed),),
        events=tuple(events),
        rest=(PlanRest(object=ball, t=rest),),
        still=("table", "gripper"),
    )
    if p.drift:
        sideways = PlanMotion(object=ball, direction=side(p.drift), speed="slow")
        plan = replace(plan, motion=(*plan.motion, sideways))
    return "A gripper above a table lets go of a ball. Static shot with no camera movement.", plan


def backdrop_ball_drop(p: BallDrop, size_px: int) -> Canvas:
    return room(size_px, p.room)


def draw_ball_drop(canvas: Canvas, p: BallDrop, state: Any) -> None:
    x, lift, spin, gripper_x, opening, flat = state
    height = float(np.clip(lift - p.radius, 0.0, 0.5))
    canvas.shadow(x, FLOOR_Y + 0.008, p.radius * (2.6 - 1.2 * height), alpha=0.24 - 0.3 * height)
    y = FLOOR_Y - lift
    if p.material == "clay":
        squash = 1.0 - 0.3 * flat
        draw_clay(
            canvas, x, lift - p.radius * (1.0 - squash), p.radius / squash, p.radius * squash, CLAY, spin
        )
    elif p.material == "wooden":
        canvas.disc(x, y, p.radius, shade(WOOD, 0.75))
        canvas.disc(x, y, 0.9 * p.radius, WOOD)
        for ring in (0.68, 0.36):  # growth rings off the centre, so that the spin is seen
            cx, cy = x + 0.16 * p.radius * np.cos(spin), y + 0.16 * p.radius * np.sin(spin)
            canvas.disc(cx, cy, ring * p.radius, shade(WOOD, 0.7))
            canvas.disc(cx, cy, (ring - 0.1) * p.radius, shade(WOOD, 1.15))
    else:
        canvas.ball(x, y, p.radius, COLORS[p.color], spin)
    top = FLOOR_Y - p.height - 2.0 * p.radius
    draw_gripper(canvas, gripper_x, top, p.radius, opening)


def draw_gripper(canvas: Canvas, x: float, top: float, radius: float, opening: float) -> None:
    """A rod from above with two jaws around a ball whose top is at `top`; `opening` 1 sets them apart."""
    canvas.box(x, (top - 0.03) / 2, 0.04, max(top - 0.03, 0.0), (92, 96, 104))
    half = radius * (1.08 + 0.35 * opening)
    canvas.box(x, top - 0.025, 2.0 * half + 0.03, 0.04, INK)
    for sign in (-1.0, 1.0):
        canvas.box(x + sign * half, top + radius * 0.55, 0.03, radius * 1.4, INK)


KINDS: Final = (
    Kind(
        name="two-balls",
        category=CATEGORY,
        sample=sample_two_balls,
        vary=lambda p, rng: nudged(p, rng, {"hit_s": 0.08, "hit_x": 0.006}),
        simulate=simulate_two_balls,
        describe=describe_two_balls,
        backdrop=backdrop_two_balls,
        draw=draw_two_balls,
    ),
    Kind(
        name="ball-drop",
        category=CATEGORY,
        sample=sample_ball_drop,
        vary=lambda p, rng: nudged(p, rng, {"release_s": 0.06, "height": 0.005}),
        simulate=simulate_ball_drop,
        describe=describe_ball_drop,
        backdrop=backdrop_ball_drop,
        draw=draw_ball_drop,
    ),
)
