"""Solid mechanics: a hammer topples a row of blocks, which may end at a gap, at a steel block or at a ball.

Physics by pymunk. When the hammer falls is told by its dial, where the chain ends and how many fall by the
row itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pymunk

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Labels, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, shade
from engine.demo.scenes.rigid import CATEGORY, add_ball, add_box, side, space_with_table
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import FLOOR_Y, INK, METAL, NUMBERS, STEP_S, Setting
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

ROW_GRAVITY: Final = 1.0  # world units/s^2
BLOCK_WIDTH: Final = 0.044
ARM: Final = 0.25
HEAD: Final = 0.055
RAISED: Final = 1.05  # rad
GAP: Final = 0.36
HEAVY: Final = (0.12, 0.2)
TARGET: Final = 0.055  # radius of the ball behind the row
DIAL: Final = (0.5, 0.13)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    setting: Setting
    colors: tuple[str, ...]
    sign: float  # the way in which the row falls
    count: int
    pitch: float
    height: float
    stop: str  # "": all fall; "gap": the row goes on behind a gap; "heavy": a steel block stops it
    before: int  # blocks before the stop
    target: bool  # a ball behind the row, which the last block sends off
    release_s: float
    broken: str = ""
    broken_s: float = 0.0

    @property
    def first_x(self) -> float:
        return 0.5 - 0.17 * self.sign

    @property
    def reach(self) -> float:
        """From a block's middle to the face of what stands in its way: it leans there at about 35 degrees."""
        return 0.55 * self.height

    @property
    def block_xs(self) -> list[float]:
        steps = np.arange(self.count) * self.pitch
        if self.stop == "gap":
            steps[self.before :] += GAP - self.pitch
        elif self.stop == "heavy":
            steps[self.before :] += self.reach + HEAVY[0] + 0.03 - self.pitch
        return [self.first_x + self.sign * float(step) for step in steps]


def sample_row(rng: Rng) -> Row:
    stop = str(choice(rng, "", "", "gap", "heavy"))
    count = int(rng.integers(5, 8)) if not stop else int(rng.integers(5, 7))
    alike = bool(rng.integers(2))
    names = [str(name) for name in rng.permutation(list(COLORS))]
    return Row(
        setting=props.sample_setting(rng),
        colors=tuple([names[0]] * 8 if alike else [names[i % 6] for i in range(8)]),
        sign=float(choice(rng, -1.0, 1.0)),
        count=count,
        pitch=float(rng.uniform(0.066, 0.076)) if not stop else 0.064,
        height=float(rng.uniform(0.19, 0.24)),
        stop=stop,
        before=int(rng.integers(2, count - 1))
        if stop == "heavy"
        else int(rng.integers(3, 5))
        if stop
        else count,
        target=not stop and count < 7 and bool(rng.integers(3)),
        release_s=float(rng.uniform(-0.2, 3.2)),
    )


def simulate_row(p: Row) -> list[Any]:
    """States (t, hammer angle, ((x, y, angle) per block), (x, y, spin) of the ball or None)."""
    space = space_with_table(friction=1.5)
    space.gravity = (0.0, ROW_GRAVITY)
    blocks = [add_box(space, x, BLOCK_WIDTH, p.height, 0.4, 0.6) for x in p.block_xs]
    if p.stop == "heavy":
        add_box(space, heavy_x(p), *HEAVY, 80.0, 1.2)
    ball = add_ball(space, target_x(p), FLOOR_Y - TARGET, TARGET, 0.08, 0.3) if p.target else None
    pivot = pivot_of(p)
    head = pymunk.Body(1.2, pymunk.moment_for_circle(1.2, 0.0, HEAD))
    shape = pymunk.Circle(head, HEAD)
    shape.friction, shape.elasticity = 0.2, 0.0
    if p.broken == "passes through":
        shape.filter = pymunk.ShapeFilter(mask=0)
    raised = (pivot[0] - p.sign * ARM * float(np.sin(RAISED)), pivot[1] + ARM * float(np.cos(RAISED)))
    head.position = raised
    space.add(head, shape, pymunk.PivotJoint(space.static_body, head, pivot))
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        t = (frame - SWITCH) / FPS
        angle = float(np.arctan2(head.position.x - pivot[0], head.position.y - pivot[1]))
        lying = None if ball is None else (*ball.position, ball.angle)
        states.append((t, angle, tuple((*b.position, b.angle) for b in blocks), lying))
        for step in range(props.SUBSTEPS):
            space.step(STEP_S)
            if t + step * STEP_S < p.release_s:
                head.position, head.velocity, head.angular_velocity = raised, (0.0, 0.0), 0.0
    return states


def pivot_of(p: Row) -> tuple[float, float]:
    x = p.first_x - p.sign * (BLOCK_WIDTH / 2 + HEAD - 0.004)
    return x, FLOOR_Y - 0.74 * p.height - ARM


def heavy_x(p: Row) -> float:
    return p.block_xs[p.before - 1] + p.sign * (p.reach + HEAVY[0] / 2)


def target_x(p: Row) -> float:
    return p.block_xs[-1] + p.sign * (0.3 * p.height + TARGET)


def describe_row(p: Row, states: list[Any]) -> tuple[str, PhysicsPlan]:
    angles = np.abs([[block[2] for block in state[2]] for state in states])
    falls = [props.first_s(column > 0.5) for column in angles.T if column[-1] > 0.5]
    times = [t for t in falls if t is not None]
    way, standing = side(p.sign), p.count - len(falls)
    events = [PlanEvent(t=props.at(p.release_s), what="the hammer is let go")]
    if times:
        count = "all" if not standing else NUMBERS[len(falls)]
        events.append(PlanEvent(t=min(times), what=f"{count} blocks begin to fall to the {way}"))
        events.append(PlanEvent(t=max(times), what="the last block falls"))
    rest = [PlanRest(object="row of blocks", t=rest_time_s(np.array([np.ravel(s[2]) for s in states])))]
    if p.target:
        track = np.array([state[3][0] for state in states])
        start = props.first_s(np.abs(track - track[0]) > 0.01)
        if start is not None:
            what = f"the white ball is hit and ends {props.place(track[-1])}"
            events.append(PlanEvent(t=start, what=what))
        rest.append(PlanRest(object="white ball", t=rest_time_s(track[:, None])))
    if standing:
        stop = {"gap": "gap", "heavy": "steel block"}.get(p.stop, "row")
        left = "block keeps" if standing == 1 else "blocks keep"
        what = f"the chain stops at the {stop} and {NUMBERS[standing]} {left} standing"
        events.append(PlanEvent(t=props.at(max(times, default=p.release_s) + 0.25), what=what))
    objects = [
        PlanObject(name="blocks", trait=f"row of {NUMBERS[p.count]} tall"),
        PlanObject(name="hammer", trait="raised"),
    ]
    plan = PhysicsPlan(
        objects=tuple(objects),
        motion=(PlanMotion(object="chain of blocks", direction=way, speed="fast"),),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=tuple(rest),
        still=("table", "steel block") if p.stop == "heavy" else ("table",),
    )
    return f"A hammer hangs over a row of blocks on a table.{props.CAMERA}", plan


def label_row(p: Row, states: list[Any]) -> Labels:
    alike = len(set(p.colors[: p.count])) == 1
    track = np.array([[block[0] for block in state[2]] for state in states])
    return props.labels_of(
        speed=props.mean_speed(track), movers=p.count, interactions=1 + p.target + bool(p.stop), alike=alike,
        soft=False, parts=p.count,
    )  # fmt: skip


def backdrop_row(p: Row, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px)
    x, y = pivot_of(p)
    canvas.line(x, 0.0, x, y, 0.03, METAL)
    if p.stop == "heavy":
        canvas.shadow(heavy_x(p), FLOOR_Y + 0.008, HEAVY[0] * 1.4)
        canvas.box(heavy_x(p), FLOOR_Y - HEAVY[1] / 2, *HEAVY, shade(props.STEEL, 0.7))
        canvas.box(heavy_x(p), FLOOR_Y - HEAVY[1] / 2, HEAVY[0] * 0.8, HEAVY[1] * 0.88, props.STEEL)
    return canvas


def draw_row(canvas: Canvas, p: Row, state: Any) -> None:
    t, angle, blocks, ball = state
    props.draw_bystander(canvas, p.setting, t)
    props.draw_dial(canvas, *DIAL, p.release_s - t)
    for name, (x, y, turn) in zip(p.colors, blocks, strict=False):
        canvas.box(x, y, BLOCK_WIDTH, p.height, shade(COLORS[name], 0.62), angle_rad=turn)
        canvas.box(x, y, BLOCK_WIDTH * 0.66, p.height * 0.94, COLORS[name], angle_rad=turn)
    if ball is not None:
        x, y, turn = ball
        canvas.shadow(x, FLOOR_Y + 0.008, TARGET * 2.4)
        canvas.disc(x, y, TARGET, INK)
        canvas.disc(x, y, 0.86 * TARGET, (248, 248, 248))
        canvas.line(
            x - 0.7 * TARGET * float(np.cos(turn)), y - 0.7 * TARGET * float(np.sin(turn)),
            x + 0.7 * TARGET * float(np.cos(turn)), y + 0.7 * TARGET * float(np.sin(turn)), 0.02, INK,
        )  # fmt: skip
    pivot = pivot_of(p)
    x, y = pivot[0] + ARM * float(np.sin(angle)), pivot[1] + ARM * float(np.cos(angle))
    canvas.line(*pivot, x, y, 0.022, INK)
    canvas.disc(x, y, HEAD, INK)
    canvas.disc(x, y, 0.7 * HEAD, METAL)
    canvas.disc(*pivot, 0.02, INK)


KINDS: Final = (
    Kind(
        name="hammer-row",
        category=CATEGORY,
        sample=sample_row,
        vary=lambda p, rng: nudged(p, rng, {"release_s": 0.06, "pitch": 0.0006}),
        simulate=simulate_row,
        describe=describe_row,
        backdrop=backdrop_row,
        draw=draw_row,
        label=label_row,
        breaks=("passes through",),
    ),
)
