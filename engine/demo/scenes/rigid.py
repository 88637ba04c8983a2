"""Rigid-body scenes, first part: a rolling ball meets a block; a pendulum; a ball that is dropped.

Physics by pymunk at 240 Hz, side view, 1 world unit is the picture's width. Speeds are named by the same
thresholds everywhere, so that "slow" means the same to generator and critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pymunk

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, TABLE_Y, Canvas, room, shade
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

SUBSTEPS: Final = 30  # per frame: 240 Hz
GRAVITY: Final = 1.6  # world units/s^2
CATEGORY: Final = "Solid Mechanics"
FLOOR_Y: Final = TABLE_Y + 0.10  # where objects touch the table, nearer than its far edge


def space_with_table(friction: float = 0.6) -> pymunk.Space:
    space = pymunk.Space()
    space.gravity = (0.0, GRAVITY)
    space.iterations = 20
    table = pymunk.Segment(space.static_body, (-5.0, FLOOR_Y + 0.05), (5.0, FLOOR_Y + 0.05), 0.05)
    table.friction, table.elasticity = friction, 0.5
    space.add(table)
    return space


def step_frame(space: pymunk.Space) -> None:
    for _ in range(SUBSTEPS):
        space.step(1.0 / (FPS * SUBSTEPS))


def add_box(
    space: pymunk.Space, x: float, w: float, h: float, mass: float, friction: float, elasticity: float = 0.1
) -> pymunk.Body:
    body = pymunk.Body(mass, pymunk.moment_for_box(mass, (w, h)))
    body.position = (x, FLOOR_Y - h / 2)
    shape = pymunk.Poly.create_box(body, (w, h))
    shape.friction, shape.elasticity = friction, elasticity
    space.add(body, shape)
    return body


def add_ball(
    space: pymunk.Space, x: float, y: float, r: float, mass: float, elasticity: float
) -> pymunk.Body:
    body = pymunk.Body(mass, pymunk.moment_for_circle(mass, 0.0, r))
    body.position = (x, y)
    shape = pymunk.Circle(body, r)
    shape.friction, shape.elasticity = 0.8, elasticity
    space.add(body, shape)
    return body


def speed_word(speed: float) -> str:
    """Speed in picture widths per second, in three words."""
    return "slow" if speed < 0.105 else "medium" if speed < 0.175 else "fast"


def side(sign: float) -> str:
    return "right" if sign > 0 else "left"


# ---------------------------------------------------------------- a ball rolls into a block


@dataclass(frozen=True, slots=True, kw_only=True)
class BallBlock:
    room: int
    ball_color: str
    block_color: str
    sign: float  # direction of the ball on screen
    speed: float
    hit_s: float  # planned contact, seconds after the switch
    block_x: float
    block: str  # "light": slides away; "tall": topples; "heavy": stays
    radius: float


def sample_ball_block(rng: Rng) -> BallBlock:
    ball, block = rng.permutation(list(COLORS))[:2]
    sign = float(choice(rng, -1.0, 1.0))
    speed = float(choice(rng, rng.uniform(0.07, 0.09), rng.uniform(0.12, 0.15), rng.uniform(0.2, 0.24)))
    return BallBlock(
        room=int(rng.integers(4)), ball_color=str(ball), block_color=str(block), sign=sign,
        speed=speed, hit_s=float(rng.uniform(0.4, min(3.2, 0.5 / speed - 1.3))),
        block_x=0.5 + sign * float(rng.uniform(0.08, 0.16)),
        block=str(choice(rng, "light", "tall", "heavy")), radius=float(rng.uniform(0.07, 0.085)),
    )  # fmt: skip


BLOCK_SIZES: Final = {"light": (0.15, 0.15), "tall": (0.09, 0.32), "heavy": (0.22, 0.22)}
BLOCK_MASSES: Final = {"light": 0.4, "tall": 0.4, "heavy": 40.0}


def simulate_ball_block(p: BallBlock) -> list[Any]:
    space = space_with_table()
    width, height = BLOCK_SIZES[p.block]
    contact_x = p.block_x - p.sign * (width / 2 + p.radius)
    start_x = contact_x - p.sign * p.speed * (p.hit_s + SWITCH / FPS)
    ball = add_ball(space, start_x, FLOOR_Y - p.radius, p.radius, 1.0, 0.8)
    ball.velocity = (p.sign * p.speed, 0.0)
    ball.angular_velocity = p.sign * p.speed / p.radius
    friction, elasticity = {"light": (0.08, 0.1), "tall": (0.8, 0.1), "heavy": (0.8, 1.0)}[p.block]
    block = add_box(space, p.block_x, width, height, BLOCK_MASSES[p.block], friction, elasticity)
    states = []
    for _ in range(NUM_FRAMES):
        states.append((*ball.position, ball.angle, *block.position, block.angle))
        step_frame(space)
    return states


def describe_ball_block(p: BallBlock, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array(states)
    hit = contact_time_s(np.abs(track[:, 0] - track[:, 3]), BLOCK_SIZES[p.block][0] / 2 + p.radius + 0.02)
    ball, block = f"{p.ball_color} ball", f"{p.block_color} block"
    moved = float(np.abs(track[-1, 3] - track[0, 3]))
    effect = "falls over" if abs(track[-1, 5]) > 0.7 else "slides away" if moved > 0.02 else "stays in place"
    events = [PlanEvent(t=hit or 0.0, what=f"the {ball} hits the {block}")]
    start = SWITCH + round((hit or 0.0) * FPS)
    after = float(track[min(start + 8, NUM_FRAMES - 1), 0] - track[start + 1, 0]) * p.sign
    recoil = "bounces back" if after < -0.02 else "rolls on" if after > 0.02 else "stops"
    events.append(PlanEvent(t=(hit or 0.0) + 0.5, what=f"the {block} {effect} and the {ball} {recoil}"))
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="ball", trait=p.ball_color),
            PlanObject(name="block", trait=f"{p.block} {p.block_color}"),
        ),
        motion=(PlanMotion(object=ball, direction=side(p.sign), speed=speed_word(p.speed)),),
        events=tuple(events),
        rest=(
            PlanRest(object=ball, t=rest_time_s(track[:, :2])),
            PlanRest(object=block, t=rest_time_s(track[:, 3:5])),
        ),
        still=("table",) if effect != "stays in place" else ("table", block),
    )
    return "A ball rolls on a table towards a block. Static shot with no camera movement.", plan


def contact_time_s(gap: np.ndarray, reach: float) -> float | None:
    """First answer frame with `gap` (distance of two centres, world units) within `reach`, in seconds."""
    touching = np.flatnonzero(gap[SWITCH:] <= reach)
    return None if len(touching) == 0 else int(touching[0]) / FPS


def backdrop_ball_block(p: BallBlock, size_px: int) -> Canvas:
    return room(size_px, p.room)


def draw_ball_block(canvas: Canvas, p: BallBlock, state: Any) -> None:
    ball_x, ball_y, spin, block_x, block_y, angle = state
    width, height = BLOCK_SIZES[p.block]
    color = COLORS[p.block_color]
    canvas.shadow(ball_x, FLOOR_Y + 0.008, p.radius * 2.6)
    canvas.shadow(block_x, FLOOR_Y + 0.008, width * 1.5 + abs(np.sin(angle)) * height)
    canvas.box(block_x, block_y, width, height, shade(color, 0.7), angle_rad=angle)
    canvas.box(block_x, block_y, width * 0.84, height * 0.9, color, angle_rad=angle)
    if p.block == "heavy":  # a steel band tells the heavy block apart
        canvas.box(block_x, block_y, width, height * 0.3, (96, 100, 108), angle_rad=angle)
    canvas.ball(ball_x, ball_y, p.radius, COLORS[p.ball_color], spin)


# ---------------------------------------------------------------- a pendulum swings


@dataclass(frozen=True, slots=True, kw_only=True)
class Pendulum:
    room: int
    color: str
    length: float
    amplitude: float  # rad at the start
    damping: float  # 1/s, of the velocity
    phase: float


def sample_pendulum(rng: Rng) -> Pendulum:
    return Pendulum(
        room=int(rng.integers(4)), color=str(choice(rng, *COLORS)), length=float(rng.uniform(0.32, 0.55)),
        amplitude=float(rng.uniform(0.45, 0.95)), damping=float(choice(rng, 0.02, 0.5, 1.6)),
        phase=float(choice(rng, -1.0, 1.0)),
    )  # fmt: skip


def simulate_pendulum(p: Pendulum) -> list[Any]:
    """Semi-implicit Euler of a damped pendulum; the bob is let go one second into the prefix."""
    angle, rate, step = p.phase * p.amplitude, 0.0, 1.0 / (FPS * SUBSTEPS)
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        states.append((angle,))
        for _ in range(SUBSTEPS if frame >= FPS else 0):
            rate += (-GRAVITY / p.length * np.sin(angle) - p.damping * rate) * step
            angle += rate * step
    return states


def describe_pendulum(p: Pendulum, states: list[Any]) -> tuple[str, PhysicsPlan]:
    angles = np.array(states)
    bob = f"{p.color} bob"
    velocity = float(angles[SWITCH + 1, 0] - angles[SWITCH - 1, 0]) * FPS / 2 * p.length
    turn = np.flatnonzero(np.diff(np.sign(np.diff(angles[SWITCH:, 0]))) != 0)
    events = []
    if len(turn):
        first = int(turn[0]) + 1
        events.append(
            PlanEvent(t=first / FPS, what=f"the {bob} turns back on the {side(angles[SWITCH + first, 0])}")
        )
    decay = {0.02: "keeps its swing", 0.5: "swings less and less", 1.6: "stops quickly"}[p.damping]
    events.append(PlanEvent(t=2.5, what=f"the {bob} {decay}"))
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="bob", trait=p.color),
            PlanObject(name="string", trait="short" if p.length < 0.42 else "long"),
        ),
        motion=(PlanMotion(object=bob, direction=side(velocity), speed=speed_word(abs(velocity) / 3)),),
        events=tuple(events),
        rest=(PlanRest(object=bob, t=rest_time_s(angles * p.length)),),
        still=("stand",),
    )
    return "A pendulum hangs from a stand and is let go. Static shot with no camera movement.", plan


PIVOT: Final = (0.5, 0.16)


def backdrop_pendulum(p: Pendulum, size_px: int) -> Canvas:
    canvas = room(size_px, p.room)
    metal = (92, 96, 104)
    canvas.shadow(0.86, FLOOR_Y + 0.01, 0.3)
    canvas.box(0.86, FLOOR_Y - 0.012, 0.24, 0.03, shade(metal, 0.8))
    canvas.line(0.86, FLOOR_Y - 0.01, 0.86, PIVOT[1] - 0.03, 0.024, metal)
    canvas.line(0.88, PIVOT[1] - 0.02, PIVOT[0] - 0.03, PIVOT[1] - 0.02, 0.02, metal)
    return canvas


def draw_pendulum(canvas: Canvas, p: Pendulum, state: Any) -> None:
    x, y = PIVOT[0] + p.length * np.sin(state[0]), PIVOT[1] + p.length * np.cos(state[0])
    canvas.shadow(x, FLOOR_Y + 0.01, 0.18, alpha=0.12)
    canvas.line(*PIVOT, x, y, 0.009, (60, 60, 64))
    canvas.ball(x, y, 0.085, COLORS[p.color])
    canvas.disc(*PIVOT, 0.014, (60, 60, 64))


KINDS: Final = (
    Kind(
        name="ball-and-block", category=CATEGORY, sample=sample_ball_block,
        vary=lambda p, rng: nudged(p, rng, {"speed": 0.02 * p.speed, "hit_s": 0.06}),
        simulate=simulate_ball_block, describe=describe_ball_block, backdrop=backdrop_ball_block,
        draw=draw_ball_block,
    ),
    Kind(
        name="pendulum", category=CATEGORY, sample=sample_pendulum,
        vary=lambda p, rng: nudged(p, rng, {"amplitude": 0.02, "length": 0.003}),
        simulate=simulate_pendulum, describe=describe_pendulum, backdrop=backdrop_pendulum,
        draw=draw_pendulum,
    ),
)  # fmt: skip
