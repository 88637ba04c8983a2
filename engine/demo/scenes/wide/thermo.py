"""Thermodynamics: wax drops fall off a heated bar one after another; heated gas lifts a piston.

How fast heat goes is told by the bar's material, from where by the flame, how long by the dial of the gas;
how high the piston comes by the flame's size, and whether the ball on it reaches the shelf by the height.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Labels, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, Color, shade
from engine.demo.scenes.rigid import side
from engine.demo.scenes.thermo import BAR_COLOR, CATEGORY, dim_room, glow_colors
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import INK, METAL, NUMBERS, STEP_S, SUBSTEPS, Setting
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

FLAME: Final[tuple[tuple[float, Color], ...]] = (
    (1.0, (226, 96, 30)),
    (0.72, (250, 178, 50)),
    (0.42, (255, 240, 170)),
)


def draw_flame(canvas: Canvas, x: float, foot: float, height: float, half: float) -> None:
    for size, color in FLAME:
        low = foot - 0.2 * height * size
        points = [(x, foot - height * size), (x + half * size, low), (x, foot), (x - half * size, low)]
        canvas.polygon(points, color)


# ---------------------------------------------------------------- wax drops fall off a bar

BAR_HALF: Final = 0.44
BAR_Y: Final = 0.3
BAR_THICKNESS: Final = 0.1
CELLS: Final = 40
COOLING: Final = 0.02  # to the air, 1/s
MELTS: Final = 0.3  # relative temperature at which a drop lets go
DIFFUSIVITY: Final = {"copper": (0.05, 0.065), "iron": (0.022, 0.03), "glass": (0.006, 0.009)}
DROP: Final = 0.05
GROUND_Y: Final = 0.9
GRAVITY: Final = 1.2  # world units/s^2


@dataclass(frozen=True, slots=True, kw_only=True)
class Drops:
    setting: Setting
    material: str
    diffusivity: float
    end: float  # -1: the flame is at the left end
    count: int
    colors: tuple[str, ...]
    lit_s: float
    out_s: float  # the dial puts the flame out then
    broken: str = ""
    broken_s: float = 0.0

    @property
    def xs(self) -> np.ndarray:
        """From the flame on."""
        steps = np.linspace(0.16, 0.95, self.count) * 2 * BAR_HALF
        return np.asarray(0.5 + self.end * (BAR_HALF - steps))


def sample_drops(rng: Rng) -> Drops:
    material = str(choice(rng, "copper", "copper", "iron", "iron", "glass"))
    alike = bool(rng.integers(2))
    names = [str(name) for name in rng.permutation(list(COLORS))]
    return Drops(
        setting=replace(props.sample_setting(rng), bystander=""),
        material=material,
        diffusivity=float(rng.uniform(*DIFFUSIVITY[material])),
        end=float(choice(rng, -1.0, 1.0)),
        count=int(rng.integers(5, 8)),
        colors=tuple([names[0]] * 7 if alike else [names[i % 6] for i in range(7)]),
        lit_s=float(rng.uniform(-2.4, -1.6)),
        out_s=float(choice(rng, 9.0, rng.uniform(0.0, 3.0))),
    )


def simulate_drops(p: Drops) -> list[Any]:
    """States (t, temperature of the cells from the flame on, (y per drop), flame burns).

    The bar as in the plain world: explicit finite differences of dT/dt = a d2T/dx2 - k T with T = 1 in the
    flame and an insulated far end; without the flame its own end is insulated too. A drop falls freely once
    its cell has reached MELTS, and lies where it lands.
    """
    cell = 2 * BAR_HALF / CELLS
    steps = max(4, int(np.ceil(p.diffusivity / (0.4 * cell**2 * FPS))))
    step = 1.0 / (FPS * steps)
    heat = np.zeros(CELLS + 2)
    at = np.clip(np.round((1.0 - p.end * (p.xs - 0.5) / BAR_HALF) / 2 * CELLS).astype(int), 1, CELLS)
    hung = BAR_Y + BAR_THICKNESS / 2 + DROP * 0.8
    loose: list[float | None] = [None] * p.count
    lands = GROUND_Y - DROP if p.broken != "passes through" else 9.0
    states: list[Any] = []
    for t in props.frame_times():
        burns = p.lit_s <= t < p.out_s
        ys = [hung if s is None else min(hung + GRAVITY * (t - s) ** 2 / 2, lands) for s in loose]
        if p.broken == "stops in the air":
            ys = [min(y, (hung + lands) / 2) if t > p.broken_s else y for y in ys]
        states.append((float(t), heat[1:-1].copy(), tuple(map(float, ys)), burns))
        for _ in range(steps):
            heat[0], heat[-1] = (1.0 if burns else heat[1]), heat[-2]
            flow = heat[2:] - 2 * heat[1:-1] + heat[:-2]
            heat[1:-1] += step * (p.diffusivity / cell**2 * flow - COOLING * heat[1:-1])
        loose = [
            float(t) + 1 / FPS if s is None and heat[i] >= MELTS else s
            for s, i in zip(loose, at, strict=True)
        ]
    return states


def describe_drops(p: Drops, states: list[Any]) -> tuple[str, PhysicsPlan]:
    ys = np.array([state[2] for state in states])
    fallen = [props.first_s(ys[:, i] > ys[0, i] + 0.02) for i in range(p.count)]
    coming = [t for i, t in enumerate(fallen) if t is not None and ys[SWITCH - 1, i] <= ys[0, i] + 0.02]
    stay = p.count - int((ys[-1] > ys[0] + 0.02).sum())
    cold = side(-p.end)
    events = []
    if p.out_s < 5.0:
        events.append(PlanEvent(t=p.out_s, what="the flame goes out"))
    if coming:
        events.append(PlanEvent(t=coming[0], what="the next drop falls"))
        if len(coming) > 1:
            events.append(PlanEvent(t=coming[-1], what="the last of the drops falls"))
    number = NUMBERS[len(coming)]
    more = "drop has" if len(coming) == 1 else "drops have"
    hang = "drop hangs" if stay == 1 else "drops hang"
    what = f"{number} more {more} fallen and {NUMBERS[stay]} {hang} at the {cold} end"
    events.append(PlanEvent(t=5.0, what=what))
    speed = {"copper": "fast", "iron": "medium", "glass": "slow"}[p.material]
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="bar", trait=p.material),
            PlanObject(name="drops", trait=f"row of {NUMBERS[p.count]} wax"),
            PlanObject(name="flame", trait=side(p.end)),
        ),
        motion=(PlanMotion(object="heat", direction=cold, speed=speed),),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(PlanRest(object="row of drops", t=rest_time_s(ys)),),
        still=("bar", "table"),
    )
    return f"Drops of wax hang from a bar whose end is over a flame.{props.CAMERA}", plan


def label_drops(p: Drops, states: list[Any]) -> Labels:
    ys = np.array([state[2] for state in states])
    moved = int((np.ptp(ys[SWITCH:], axis=0) > 0.02).sum())
    return props.labels_of(
        speed=props.mean_speed(ys), movers=moved, interactions=1 + (p.out_s < 5.0),
        alike=len(set(p.colors[: p.count])) == 1, soft=True, parts=moved,
    )  # fmt: skip


def backdrop_drops(p: Drops, size_px: int) -> Canvas:
    canvas = dim_room(size_px, p.setting.room)
    for x in (0.5 - BAR_HALF - 0.02, 0.5 + BAR_HALF + 0.02):
        canvas.box(x, 0.6, 0.03, 0.6, (30, 32, 38))
    canvas.box(0.5, BAR_Y, 2 * BAR_HALF + 0.02, BAR_THICKNESS + 0.02, shade(BAR_COLOR[p.material], 0.55))
    canvas.box(0.5 + p.end * (BAR_HALF - 0.03), 0.72, 0.08, 0.36, (56, 60, 68))
    return canvas


def draw_drops(canvas: Canvas, p: Drops, state: Any) -> None:
    t, heat, ys, burns = state
    colors = glow_colors(heat if p.end < 0 else heat[::-1], BAR_COLOR[p.material])[0]
    for i, color in enumerate(colors):
        x = 0.5 - BAR_HALF + (i + 0.5) / CELLS * 2 * BAR_HALF
        tone = (int(color[0]), int(color[1]), int(color[2]))
        canvas.box(x, BAR_Y, 2.2 * BAR_HALF / CELLS, BAR_THICKNESS, tone)
    for x, y, name in zip(p.xs, ys, p.colors, strict=False):
        canvas.disc(float(x), y, DROP, shade(COLORS[name], 0.6))
        canvas.disc(float(x), y, 0.82 * DROP, shade(COLORS[name], 1.1))
    if burns:
        draw_flame(canvas, 0.5 + p.end * (BAR_HALF - 0.03), 0.55, 0.19, 0.06)
    if p.out_s < 5.0:
        props.draw_dial(canvas, 0.5, 0.12, p.out_s - t)


# ---------------------------------------------------------------- heated gas lifts a piston

WALLS: Final = (0.33, 0.69)  # of the cylinder
BASE_Y: Final = 0.74
PISTON: Final = 0.05  # thickness
COLD: Final = 0.14  # height of the gas at room temperature
SHELF: Final = 0.4  # height above the base from which the ball rolls off
RATE: Final = 0.75  # 1/s: how fast the gas follows flame and room
FLAMES: Final = {"small": (0.27, 0.34), "big": (0.5, 0.62)}  # height at which flame and losses balance
BALL: Final = 0.06
ROLL: Final = 0.32  # speed at which the ball rolls off, picture widths/s


@dataclass(frozen=True, slots=True, kw_only=True)
class Piston:
    setting: Setting
    gas: str
    ball: str
    flame: str
    balance: float
    on_s: float
    off_s: float
    shelf_side: float
    broken: str = ""
    broken_s: float = 0.0


def sample_piston(rng: Rng) -> Piston:
    flame = str(choice(rng, "small", "big", "big"))
    on_s = float(choice(rng, rng.uniform(-1.5, -0.5), rng.uniform(0.0, 1.6)))
    return Piston(
        setting=replace(props.sample_setting(rng), bystander=""),
        gas=str(choice(rng, *COLORS)),
        ball=str(choice(rng, *COLORS)),
        flame=flame,
        balance=float(rng.uniform(*FLAMES[flame])),
        on_s=on_s,
        off_s=float(max(0.3, on_s + rng.uniform(1.2, 3.0))),
        shelf_side=float(choice(rng, -1.0, 1.0)),
    )


def simulate_piston(p: Piston) -> list[Any]:
    """States (t, height of the gas, (ball x, ball y, spin), flame burns).

    At constant pressure the volume is as the temperature (Gay-Lussac); the temperature follows flame and
    room by Newton's law of cooling, so the height relaxes with RATE to `balance` or COLD. Above SHELF the
    wall is open on one side, to which the ball rolls, and off; a piston that sinks keeps it in.
    """
    height, x, y, vx, vy, spin = COLD, sum(WALLS) / 2, 0.0, 0.0, 0.0, 0.0
    rolls, states = False, []
    for frame in range(NUM_FRAMES):
        t0 = (frame - SWITCH) / FPS
        burns = p.on_s <= t0 < p.off_s
        carried = BASE_Y - height - PISTON - BALL
        states.append((t0, height, (x, y if rolls else carried, spin), burns))
        for step in range(SUBSTEPS):
            t = t0 + step * STEP_S
            target = p.balance if p.on_s <= t < p.off_s else COLD
            if p.broken == "stops in the air" and t >= p.broken_s:
                target = height
            height += RATE * (target - height) * STEP_S
            if not rolls and height > SHELF:
                rolls, vx = True, p.shelf_side * ROLL
            if not rolls:
                continue
            if not is_outside(x):  # on the piston, which may sink below the shelf again
                inside = WALLS[0] + BALL, WALLS[1] - BALL
                x = x + vx * STEP_S if height > SHELF else float(np.clip(x + vx * STEP_S, *inside))
                y, vy = BASE_Y - height - PISTON - BALL, 0.0
            else:
                x, vy = x + vx * STEP_S, vy + 1.2 * STEP_S
                y = min(y + vy * STEP_S, 0.9 - BALL)
            spin = (x - sum(WALLS) / 2) / BALL
            if y >= 0.9 - BALL and vy > 0.1:
                vy = -0.4 * vy if p.broken != "wrong restitution" else -1.3 * vy
    return states


def is_outside(x: float) -> bool:
    """Whether a ball there has left the cylinder."""
    return not WALLS[0] - 0.03 <= x <= WALLS[1] + 0.03


def describe_piston(p: Piston, states: list[Any]) -> tuple[str, PhysicsPlan]:
    heights = np.array([state[1] for state in states])
    ball = np.array([state[2][:2] for state in states])
    name, gone = (
        f"{p.ball} ball",
        props.first_s(np.array([abs(s[2][0] - sum(WALLS) / 2) > 0.03 for s in states])),
    )
    events = []
    if p.on_s >= 0.0:
        events.append(PlanEvent(t=p.on_s, what="the flame is lit and the piston rises"))
    if gone is not None:
        off = "off the piston" if is_outside(float(ball[-1, 0])) else "and stays on the piston"
        events.append(PlanEvent(t=gone, what=f"the {name} rolls {off} on the {side(p.shelf_side)}"))
    if p.off_s <= 5.0:
        events.append(PlanEvent(t=p.off_s, what="the flame goes out and the piston sinks"))
    end = "low" if heights[-1] < 0.22 else "half way" if heights[-1] < 0.34 else "high"
    events.append(PlanEvent(t=5.0, what=f"the piston is {end}"))
    plan = PhysicsPlan(
        objects=(PlanObject(name="flame", trait=p.flame), PlanObject(name="ball", trait=p.ball)),
        motion=(
            PlanMotion(
                object="piston",
                direction="up" if heights[SWITCH + 8] > heights[SWITCH - 1] else "down",
                speed=props.pace(float(np.abs(np.diff(heights)).max()) * FPS),
            ),
        ),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(
            PlanRest(object="piston", t=rest_time_s(heights[:, None])),
            PlanRest(object=name, t=rest_time_s(ball)),
        ),
        still=("cylinder", "shelf"),
    )
    return f"A ball lies on the piston of a cylinder over a burner.{props.CAMERA}", plan


def label_piston(p: Piston, states: list[Any]) -> Labels:
    heights = np.array([[state[1]] for state in states])
    rolled = is_outside(states[-1][2][0])
    return props.labels_of(
        speed=props.mean_speed(heights), movers=1 + rolled, interactions=1 + rolled, alike=False, soft=True,
        parts=0,
    )  # fmt: skip


def backdrop_piston(p: Piston, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px, table_y=0.86)
    middle, tall = sum(WALLS) / 2, 0.62
    canvas.box(middle, BASE_Y - tall / 2, WALLS[1] - WALLS[0] + 0.05, tall, (132, 150, 162))
    canvas.box(middle, BASE_Y - tall / 2 - 0.01, WALLS[1] - WALLS[0], tall, (238, 243, 247))
    # the wall is open above the shelf, on the shelf's side
    edge = WALLS[1] + 0.0125 if p.shelf_side > 0 else WALLS[0] - 0.0125
    top = BASE_Y - SHELF - PISTON
    canvas.box(edge, (BASE_Y - tall + top) / 2, 0.026, top - BASE_Y + tall, (238, 243, 247))
    canvas.box(edge, top + 0.012, 0.05, 0.024, (206, 48, 40))
    canvas.box(middle, 0.94, 0.14, 0.1, (56, 60, 68))
    return canvas


def draw_piston(canvas: Canvas, p: Piston, state: Any) -> None:
    t, height, (x, y, spin), burns = state
    middle, inner = sum(WALLS) / 2, WALLS[1] - WALLS[0]
    canvas.box(middle, BASE_Y - height / 2, inner, height, shade(COLORS[p.gas], 1.55))
    canvas.box(middle, BASE_Y - height - PISTON / 2, inner, PISTON, INK)
    props.draw_dial(canvas, 0.16, 0.17, p.on_s - t, 0.085)
    props.draw_dial(canvas, 0.85, 0.17, p.off_s - t, 0.085)
    canvas.ball(x, y, BALL, COLORS[p.ball], spin)
    if burns:
        big = p.flame == "big"
        draw_flame(canvas, middle, 0.9, 0.15 if big else 0.09, 0.13 if big else 0.05)
    else:  # the size of a flame that is to come is that of its burner
        canvas.box(middle, 0.895, 0.24 if p.flame == "big" else 0.1, 0.016, METAL)


KINDS: Final = (
    Kind(
        name="wax-drops",
        category=CATEGORY,
        sample=sample_drops,
        vary=lambda p, rng: nudged(p, rng, {"diffusivity": 0.025 * p.diffusivity, "lit_s": 0.04}),
        simulate=simulate_drops,
        describe=describe_drops,
        backdrop=backdrop_drops,
        draw=draw_drops,
        label=label_drops,
        breaks=("passes through", "stops in the air"),
    ),
    Kind(
        name="piston",
        category=CATEGORY,
        sample=sample_piston,
        vary=lambda p, rng: nudged(p, rng, {"on_s": 0.05, "off_s": 0.05, "balance": 0.006}),
        simulate=simulate_piston,
        describe=describe_piston,
        backdrop=backdrop_piston,
        draw=draw_piston,
        label=label_piston,
        breaks=("stops in the air", "wrong restitution"),
    ),
)
