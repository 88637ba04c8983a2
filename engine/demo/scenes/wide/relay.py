"""Solid mechanics: one of three balls on a table rolls, and the balls pass their motion on.

Physics by the rail. What an impact leaves is told by material and sizes, how far a ball rolls by the surface,
and whether it comes back by the bumpers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, SWITCH, Kind, Labels, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, shade
from engine.demo.scenes.rigid import CATEGORY, side
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import FLOOR_Y, Setting
from engine.demo.scenes.wide.rail import RIGHT_WALL, Body, Motion, Rail, run
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

BOUNCE: Final = {"rubber": 0.9, "wooden": 0.6, "clay": 0.0}
SURFACES: Final = {"ice": 0.004, "wood": 0.03, "felt": 0.075}  # slowing, world units/s^2
SURFACE_COLORS: Final = {"ice": (206, 232, 246), "felt": (34, 104, 66)}
BUMPER: Final = 0.035
RADII: Final = {"small": 0.06, "middle": 0.075, "big": 0.092}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    setting: Setting
    colors: tuple[str, str, str]  # from left to right
    sizes: tuple[str, str, str]
    material: str
    surface: str
    walls: tuple[bool, bool]
    mover: int  # 0: the left one moves right, 2: the right one moves left
    speed: float
    hit_s: float
    middle_x: float
    far: float  # gap between the two that rest
    broken: str = ""
    broken_s: float = 0.0

    @property
    def sign(self) -> float:
        return 1.0 if self.mover == 0 else -1.0

    @property
    def bodies(self) -> tuple[Body, ...]:
        """From left to right, at the start of the prefix; the mover arrives at `hit_s` with `speed`."""
        radii = [RADII[size] for size in self.sizes]
        slowing, back = SURFACES[self.surface], self.hit_s + SWITCH / FPS
        contact = self.middle_x - self.sign * (radii[1] + radii[self.mover])
        start = contact - self.sign * (self.speed * back + slowing * back**2 / 2)
        xs = [start, self.middle_x, self.middle_x + self.far + radii[1] + radii[2]]
        if self.mover == 2:
            xs = [self.middle_x - self.far - radii[1] - radii[0], self.middle_x, start]
        speeds = [self.sign * (self.speed + slowing * back) if i == self.mover else 0.0 for i in range(3)]
        bounce = BOUNCE[self.material]
        if self.broken == "wrong restitution":
            bounce = 0.0 if bounce else 0.9
        return tuple(
            Body(x=x, v=v, mass=r**3, half=r, bounce=bounce)
            for x, v, r in zip(xs, speeds, radii, strict=True)
        )


def sample_relay(rng: Rng) -> Relay:
    colors = [str(name) for name in rng.permutation(list(COLORS))[:3]]
    if rng.random() < 0.4:
        colors = [colors[0]] * 3
    mover, speed = int(choice(rng, 0, 2)), float(rng.uniform(0.15, 0.36))
    sign = 1.0 if mover == 0 else -1.0
    return Relay(
        setting=props.sample_setting(rng),
        colors=(colors[0], colors[1], colors[2]),
        sizes=(str(choice(rng, *RADII)), str(choice(rng, *RADII)), str(choice(rng, *RADII))),
        material=str(choice(rng, "rubber", *BOUNCE)),
        surface=str(choice(rng, *SURFACES)),
        walls=(bool(rng.integers(2)), bool(rng.integers(2))),
        mover=mover,
        speed=speed,
        hit_s=float(rng.uniform(0.15, min(2.2, 0.36 / speed - 0.6))),
        middle_x=0.5 - sign * float(rng.uniform(-0.02, 0.06)),
        far=float(rng.uniform(0.02, 0.14)),
    )


def move_relay(p: Relay) -> Motion:
    bumpers = (BUMPER if p.walls[0] else None, 1.0 - BUMPER if p.walls[1] else None)
    kick = (p.broken_s, 2 - p.mover, -p.sign * 0.25) if p.broken == "momentum from nothing" else None
    rail = Rail(
        slowing=SURFACES[p.surface], walls=bumpers, wall_bounce=BOUNCE[p.material],
        meet=p.broken != "passes through", kick=kick,
    )  # fmt: skip
    return run(p.bodies, rail)


def simulate_relay(p: Relay) -> list[Any]:
    """States (t, x of the three)."""
    return [(t, *xs) for t, xs in zip(props.frame_times(), move_relay(p).x, strict=True)]


def relay_names(p: Relay) -> tuple[str, ...]:
    if len(set(p.colors)) == 1:
        return "left ball", "middle ball", "right ball"
    return tuple(f"{color} ball" for color in p.colors)


def describe_relay(p: Relay, states: list[Any]) -> tuple[str, PhysicsPlan]:
    names, track = relay_names(p), np.array(states)[:, 1:]
    events = []
    for t, one, other in [c for c in move_relay(p).contacts if 0.0 <= c[0] <= 5.0][:3]:
        if other < 0:
            what = f"the {names[one]} hits the {'right' if other == RIGHT_WALL else 'left'} wall"
        else:
            active, passive = (one, other) if p.sign > 0 else (other, one)
            together = " and they stick together" if p.material == "clay" else ""
            what = f"the {names[active]} hits the {names[passive]}{together}"
        events.append(PlanEvent(t=at_frame(t), what=what))
    ends = " and ".join(f"the {n} is {props.place(x)}" for n, x in zip(names, track[-1], strict=True))
    events.append(PlanEvent(t=5.0, what=f"at the end {ends}"))
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="balls", trait=f"three {p.material}"),
            PlanObject(name="table", trait={"wood": "wooden"}.get(p.surface, p.surface)),
        ),
        motion=(PlanMotion(object=names[p.mover], direction=side(p.sign), speed=props.pace(p.speed)),),
        events=tuple(events),
        rest=tuple(PlanRest(object=n, t=rest_time_s(track[:, [i]])) for i, n in enumerate(names)),
        still=("table",),
    )
    return f"Three balls are on a table and one of them rolls.{props.CAMERA}", plan


def at_frame(t: float) -> float:
    """The time of the first frame that shows it."""
    return props.at(float(np.ceil(t * FPS - 1e-9)) / FPS)


def label_relay(p: Relay, states: list[Any]) -> Labels:
    contacts = [c for c in move_relay(p).contacts if 0.0 <= c[0] <= 5.0]
    track = np.array(states)[:, 1:]
    moved = int((np.ptp(track[SWITCH:], axis=0) > 0.02).sum())
    return props.labels_of(
        speed=props.mean_speed(track), movers=moved, interactions=len(contacts),
        alike=len(set(p.colors)) == 1, soft=False, parts=0,
    )  # fmt: skip


def backdrop_relay(p: Relay, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px)
    if p.surface in SURFACE_COLORS:
        color = SURFACE_COLORS[p.surface]
        canvas.gradient(color, shade(color, 0.8), 0.78, 1.0)
        for x in np.arange(0.08, 1.0, 0.17):
            glint = (250, 254, 255) if p.surface == "ice" else shade(color, 1.25)
            canvas.line(float(x), 0.93, float(x) + 0.07, 0.91, 0.012, glint)
    for x, present in zip((BUMPER / 2, 1.0 - BUMPER / 2), p.walls, strict=True):
        if present:
            canvas.box(x, FLOOR_Y - 0.1, BUMPER, 0.22, (60, 56, 62))
    return canvas


def draw_relay(canvas: Canvas, p: Relay, state: Any) -> None:
    t, *xs = state
    props.draw_bystander(canvas, p.setting, t)
    for x, size in zip(xs, p.sizes, strict=True):
        canvas.shadow(x, FLOOR_Y + 0.008, RADII[size] * 2.5)
    for x, size, color, body in zip(xs, p.sizes, p.colors, p.bodies, strict=True):
        radius, spin = RADII[size], (x - body.x) / RADII[size]
        y, tone = FLOOR_Y - radius, COLORS[color]
        if p.material == "rubber":
            canvas.ball(x, y, radius, tone, spin)
            continue
        mark = shade(tone, 0.55 if p.material == "clay" else 1.4)
        canvas.disc(x, y, radius, shade(tone, 0.5))
        canvas.disc(x, y, 0.88 * radius, shade(tone, 0.72) if p.material == "clay" else tone)
        for turn in (0.4, 2.4, 4.4) if p.material == "clay" else (0.0, np.pi):
            a = spin + turn
            spot = (x + 0.5 * radius * float(np.cos(a)), y + 0.5 * radius * float(np.sin(a)))
            canvas.disc(*spot, (0.2 if p.material == "clay" else 0.3) * radius, mark)


KINDS: Final = (
    Kind(
        name="ball-relay",
        category=CATEGORY,
        sample=sample_relay,
        vary=lambda p, rng: nudged(p, rng, {"hit_s": 0.06, "speed": 0.02 * p.speed, "far": 0.004}),
        simulate=simulate_relay,
        describe=describe_relay,
        backdrop=backdrop_relay,
        draw=draw_relay,
        label=label_relay,
        breaks=("passes through", "wrong restitution", "momentum from nothing"),
    ),
)
