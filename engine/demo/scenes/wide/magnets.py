"""Magnetism: a cart with a magnet rolls towards another; a crane's electromagnet passes over three things.

Whether carts push or stick is told by the facing poles, how far by loads and bumpers; what the crane lifts by
what is steel, and where it falls by the dial of the current.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Kind, Labels, Rng, choice, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, Canvas, shade
from engine.demo.scenes.magnets import CATEGORY, POLES
from engine.demo.scenes.rigid import side
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import FLOOR_Y, INK, METAL, STEP_S, SUBSTEPS, Setting
from engine.demo.scenes.wide.rail import LEFT_WALL, Body, Motion, Rail, run
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

# ---------------------------------------------------------------- carts with magnets

HALF: Final = 0.1
BAR_HEIGHT: Final = 0.075
POLE_DEPTH: Final = 0.06  # both poles lie this deep behind the faces, together
STRENGTH: Final = 0.0011  # world units^4/s^2: force at unit mass times (gap + POLE_DEPTH)^3
SLOWING: Final = 0.03
BUMPER: Final = 0.045
WALL_BOUNCE: Final = {"hard": 0.85, "soft": 0.15}
LOADED: Final = 3.0  # times the mass


@dataclass(frozen=True, slots=True, kw_only=True)
class Carts:
    setting: Setting
    mover: int  # 0: the left one comes, 1: the right one
    pull: bool
    steel: bool  # the waiting cart holds steel: it is drawn to either pole
    leading: str  # pole of the moving magnet that faces the other
    loads: tuple[bool, bool]
    walls: tuple[str, str]  # "", "hard" or "soft", left and right
    speed: float
    near_s: float  # without forces the faces would touch then
    wait_x: float
    broken: str = ""
    broken_s: float = 0.0

    @property
    def sign(self) -> float:
        return 1.0 if self.mover == 0 else -1.0


def sample_carts(rng: Rng) -> Carts:
    mover, speed = int(rng.integers(2)), float(rng.uniform(0.13, 0.3))
    pull = bool(rng.integers(2))
    return Carts(
        setting=props.sample_setting(rng),
        mover=mover,
        pull=pull,
        steel=pull and bool(rng.integers(2)),
        leading=str(choice(rng, "N", "S")),
        loads=(bool(rng.integers(2)), bool(rng.integers(2))),
        walls=(str(choice(rng, "", "hard", "soft")), str(choice(rng, "", "hard", "soft"))),
        speed=speed,
        near_s=float(rng.uniform(0.4, min(2.4, 0.42 / speed - 0.3))),
        wait_x=0.5 + (0.12 if mover == 0 else -0.12) + float(rng.uniform(-0.04, 0.04)),
    )


def move_carts(p: Carts) -> Motion:
    back = p.near_s + SWITCH / FPS
    start = p.wait_x - p.sign * (2 * HALF + p.speed * back + SLOWING * back**2 / 2)
    arriving, waiting = p.sign * (p.speed + SLOWING * back), 0.0
    masses = [LOADED if load else 1.0 for load in p.loads]
    places = [(start, arriving), (p.wait_x, waiting)]
    bodies = [
        Body(x=x, v=v, mass=m, half=HALF, bounce=0.1)
        for (x, v), m in zip(places if p.mover == 0 else places[::-1], masses, strict=True)
    ]
    pull = not p.pull if p.broken == "force turned round" else p.pull

    def forces(x: list[float]) -> list[float]:
        """Between facing poles, as in the plain world: 1 / (gap + POLE_DEPTH)^3."""
        gap = max(x[1] - x[0] - 2 * HALF, 0.0)
        push = (-1.0 if pull else 1.0) * STRENGTH / (gap + POLE_DEPTH) ** 3 if gap < 0.32 else 0.0
        return [-push / masses[0], push / masses[1]]

    faces = (BUMPER if p.walls[0] else None, 1.0 - BUMPER if p.walls[1] else None)
    bounce = WALL_BOUNCE.get(p.walls[1 if p.mover == 0 else 0], 0.5)
    kick = (p.broken_s, 1 - p.mover, -p.sign * 0.3) if p.broken == "momentum from nothing" else None
    rail = Rail(
        slowing=SLOWING, walls=faces, wall_bounce=bounce, meet=p.broken != "passes through", kick=kick
    )
    return run(bodies, rail, forces)


def simulate_carts(p: Carts) -> list[Any]:
    """States (t, x of the left cart, x of the right cart)."""
    return [(float(t), *map(float, xs)) for t, xs in zip(props.frame_times(), move_carts(p).x, strict=True)]


def describe_carts(p: Carts, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track, names = np.array(states)[:, 1:], ("left cart", "right cart")
    mover, waiting = names[p.mover], names[1 - p.mover]
    moved = props.first_s(np.abs(track[:, 1 - p.mover] - p.wait_x) > 0.008)
    contacts = [c for c in move_carts(p).contacts if 0.0 <= c[0] <= 5.0][:2]
    events = []
    if moved is not None:
        what = f"the {waiting} is {'drawn to' if p.pull else 'pushed off by'} the {mover}"
        events.append(PlanEvent(t=min([moved, *(c[0] for c in contacts)]), what=what))
    for t, one, other in contacts:
        met = f"the {names[one]} hits the {'left' if other == LEFT_WALL else 'right'} wall"
        what = "the two carts stick together" if other >= 0 else met
        events.append(PlanEvent(t=props.at(t), what=what))
    ends = " and ".join(f"the {n} is {props.place(float(x))}" for n, x in zip(names, track[-1], strict=True))
    events.append(PlanEvent(t=5.0, what=f"at the end {ends}"))
    loads = [
        f"{'loaded' if load else 'empty'} {name.split()[0]}"
        for load, name in zip(p.loads, names, strict=True)
    ]
    plan = PhysicsPlan(
        objects=tuple(PlanObject(name="cart", trait=load) for load in loads),
        motion=(PlanMotion(object=mover, direction=side(p.sign), speed=props.pace(p.speed)),),
        events=tuple(events),
        rest=tuple(PlanRest(object=n, t=rest_time_s(track[:, [i]])) for i, n in enumerate(names)),
        still=("rail",),
    )
    return f"A cart with a magnet rolls on a rail towards another cart.{props.CAMERA}", plan


def label_carts(p: Carts, states: list[Any]) -> Labels:
    track = np.array(states)[:, 1:]
    contacts = [c for c in move_carts(p).contacts if 0.0 <= c[0] <= 5.0]
    moved = int((np.ptp(track[SWITCH:], axis=0) > 0.02).sum())
    return props.labels_of(
        speed=props.mean_speed(track), movers=moved, interactions=len(contacts) + (not p.pull),
        alike=not p.steel and p.loads[0] == p.loads[1], soft=False, parts=0,
    )  # fmt: skip


def backdrop_carts(p: Carts, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px)
    canvas.box(0.5, FLOOR_Y + 0.012, 1.2, 0.024, METAL)
    for x, wall in zip((BUMPER / 2, 1.0 - BUMPER / 2), p.walls, strict=True):
        if wall:
            canvas.box(x, FLOOR_Y - 0.08, BUMPER, 0.2, (60, 56, 62) if wall == "hard" else (236, 150, 160))
    return canvas


def draw_carts(canvas: Canvas, p: Carts, state: Any) -> None:
    t, *xs = state
    props.draw_bystander(canvas, p.setting, t)
    other = "S" if p.leading == "N" else "N"
    facing = other if p.pull else p.leading  # of the waiting magnet
    poles = [(other, p.leading), (facing, "S" if facing == "N" else "N")]
    if p.mover == 1:
        poles = [pair[::-1] for pair in poles[::-1]]
    for i, (x, load) in enumerate(zip(xs, p.loads, strict=True)):
        y = FLOOR_Y - 0.075
        canvas.shadow(x, FLOOR_Y + 0.02, 0.24)
        for wheel in (-0.06, 0.06):
            canvas.disc(x + wheel, FLOOR_Y - 0.028, 0.03, INK)
        canvas.box(x, y, 2 * HALF, 0.035, shade(METAL, 0.8))
        top = y - 0.0175 - BAR_HEIGHT / 2
        if p.steel and i != p.mover:
            canvas.box(x, top, 2 * HALF, BAR_HEIGHT, shade(props.STEEL, 0.75))
            canvas.box(x, top, 1.8 * HALF, BAR_HEIGHT * 0.6, props.STEEL)
        else:
            for place, pole in zip((-0.5, 0.5), poles[i], strict=True):
                canvas.box(x + place * HALF, top, HALF, BAR_HEIGHT, POLES[pole])
                canvas.letter(x + place * HALF, top, 0.055, pole, (255, 255, 255))
        if load:
            canvas.box(x, top - BAR_HEIGHT / 2 - 0.04, 0.11, 0.08, (52, 48, 56))


# ---------------------------------------------------------------- a crane with an electromagnet

RAIL_Y: Final = 0.05
MAGNET_Y: Final = 0.46  # of its lower face
THING: Final = (0.13, 0.12)
LIFT: Final = 1.1  # world units/s^2 upwards on steel below the magnet
CATCH: Final = 0.06  # how far from the middle of a thing the magnet still lifts it
FALL: Final = 1.1
DIAL: Final = (0.5, 0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crane:
    setting: Setting
    steel: tuple[bool, bool, bool]
    colors: tuple[str, str, str]
    xs: tuple[float, float, float]
    sign: float
    speed: float
    start_x: float  # at the start of the prefix
    stop_x: float
    off_s: float
    broken: str = ""
    broken_s: float = 0.0


def sample_crane(rng: Rng) -> Crane:
    sign, speed = float(choice(rng, -1.0, 1.0)), float(rng.uniform(0.11, 0.2))
    names = [str(name) for name in rng.permutation([n for n in COLORS if n != "orange"])[:3]]
    if rng.random() < 0.4:
        names = [names[0]] * 3
    steel = [bool(rng.integers(2)) for _ in range(3)]
    if not any(steel):
        steel[int(rng.integers(3))] = True
    return Crane(
        setting=replace(props.sample_setting(rng), bystander=""),
        steel=(steel[0], steel[1], steel[2]),
        colors=(names[0], names[1], names[2]),
        xs=(0.24, 0.5, 0.76),
        sign=sign,
        speed=speed,
        start_x=0.5 - sign * (0.5 + float(rng.uniform(0.0, 0.12)) + 1.5 * (speed - 0.11)),
        stop_x=0.5 + sign * float(rng.uniform(0.18, 0.38)),
        off_s=float(rng.uniform(1.6, 4.2)),
    )


def simulate_crane(p: Crane) -> list[Any]:
    """States (t, crane x, ((x, y) per thing), index of the lifted one or -1, current on)."""
    ground = FLOOR_Y - THING[1] / 2
    places, held, lifting = [[x, ground, 0.0] for x in p.xs], -1, -1
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        t0 = (frame - SWITCH) / FPS
        crane = crane_x(p, t0)
        states.append((t0, crane, tuple((x, y) for x, y, _ in places), held, t0 < p.off_s))
        for step in range(SUBSTEPS):
            t = t0 + step * STEP_S
            crane = crane_x(p, t)
            if t >= p.off_s:
                held = lifting = -1
            elif lifting < 0 and held < 0:
                near = [i for i, x in enumerate(p.xs) if abs(crane - x) < CATCH and attracts(p, i, t)]
                lifting = near[0] if near else -1
            for i, place in enumerate(places):
                if i == held:
                    place[0], place[1], place[2] = crane, MAGNET_Y + THING[1] / 2, 0.0
                    continue
                rise = LIFT if i == lifting else 0.0
                stuck = p.broken == "stops in the air" and t >= max(p.off_s + 0.2, p.broken_s)
                place[2] = 0.0 if stuck else place[2] + (FALL - (FALL + 1) * rise) * STEP_S
                below = ground - THING[1] * (p.broken != "passes through" and under(places, i))
                place[1] = min(place[1] + place[2] * STEP_S, below)
                if place[1] >= below:
                    place[2] = min(0.0, -0.25 * place[2]) if place[2] > 0.1 else min(place[2], 0.0)
                if i == lifting:
                    place[0] += (crane - place[0]) * 6.0 * STEP_S
                    if place[1] <= MAGNET_Y + THING[1] / 2:
                        held, lifting = i, -1
    return states


def under(places: list[list[float]], i: int) -> bool:
    """Whether another thing stands where thing `i`, which is above it, comes down."""
    x, y, _ = places[i]
    return any(abs(x - a) < 0.8 * THING[0] and b > y + 0.5 * THING[1] for a, b, _ in places)


def attracts(p: Crane, i: int, t: float) -> bool:
    return p.steel[i] != (p.broken == "force turned round" and t >= p.broken_s)


def crane_x(p: Crane, t: float) -> float:
    way = p.start_x + p.sign * p.speed * (t + SWITCH / FPS)
    return min(way, p.stop_x) if p.sign > 0 else max(way, p.stop_x)


def thing_names(p: Crane) -> tuple[str, ...]:
    if len(set(p.colors)) == 1:
        return "left block", "middle block", "right block"
    return tuple(f"{color} block" for color in p.colors)


def describe_crane(p: Crane, states: list[Any]) -> tuple[str, PhysicsPlan]:
    names, held = thing_names(p), np.array([state[3] for state in states])
    lifted = int(held.max())
    events = []
    if lifted >= 0:
        start = props.first_s(held == lifted)
        if start is not None and held[SWITCH - 1] < 0:
            events.append(PlanEvent(t=start, what=f"the magnet lifts the {names[lifted]}"))
    stop = props.first_s(np.array([abs(state[1] - p.stop_x) < 1e-6 for state in states]))
    if stop is not None:
        events.append(PlanEvent(t=stop, what=f"the crane stops {props.place(p.stop_x)}"))
    end_x = float(states[-1][2][lifted][0]) if lifted >= 0 else 0.5
    dropped = f" and the {names[lifted]} falls {props.place(end_x)}" if lifted >= 0 else ""
    events.append(PlanEvent(t=p.off_s, what=f"the current is switched off{dropped}"))
    track = np.array([[c for place in state[2] for c in place] for state in states])
    still = tuple(n for i, n in enumerate(names) if float(np.ptp(track[:, 2 * i])) < 0.01)
    objects = tuple(
        PlanObject(name="block", trait=f"{'steel' if s else 'wooden'} {n.removesuffix(' block')}")
        for s, n in zip(p.steel, names, strict=True)
    )
    rest = [PlanRest(object="crane", t=rest_time_s(np.array([[state[1]] for state in states])))]
    if lifted >= 0:
        path = track[:, 2 * lifted : 2 * lifted + 2]
        rest.append(PlanRest(object=names[lifted], t=rest_time_s(path)))
    plan = PhysicsPlan(
        objects=objects,
        motion=(PlanMotion(object="crane", direction=side(p.sign), speed=props.pace(p.speed)),),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=tuple(rest),
        still=("table", *still),
    )
    return f"A crane with an electromagnet moves over three blocks.{props.CAMERA}", plan


def label_crane(p: Crane, states: list[Any]) -> Labels:
    held = np.array([state[3] for state in states])
    return props.labels_of(
        speed=0.4 if held.max() >= 0 else p.speed, movers=1 + int(held.max() >= 0),
        interactions=2 if held.max() >= 0 else 0, alike=len(set(p.colors)) == 1, soft=False, parts=0,
    )  # fmt: skip


def backdrop_crane(p: Crane, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px)
    canvas.box(0.5, RAIL_Y, 1.2, 0.035, METAL)
    canvas.box(p.stop_x + p.sign * 0.1, RAIL_Y, 0.045, 0.09, (206, 48, 40))
    return canvas


def draw_crane(canvas: Canvas, p: Crane, state: Any) -> None:
    t, crane, places, _, is_on = state
    for (x, y), steel, color in zip(places, p.steel, p.colors, strict=True):
        canvas.shadow(x, FLOOR_Y + 0.008, 0.17, alpha=0.2)
        canvas.box(x, y, *THING, shade(props.STEEL if steel else props.WOOD, 0.7))
        canvas.box(x, y, THING[0] * 0.86, THING[1] * 0.84, props.STEEL if steel else props.WOOD)
        canvas.box(x, y, THING[0] * 0.86, THING[1] * 0.34, COLORS[color])
    canvas.line(crane, RAIL_Y, crane, MAGNET_Y - 0.08, 0.03, INK)
    canvas.box(crane, RAIL_Y, 0.13, 0.06, INK)
    canvas.box(crane, MAGNET_Y - 0.05, 0.16, 0.1, (70, 66, 76))
    canvas.box(crane, MAGNET_Y - 0.05, 0.13, 0.05, (255, 196, 60) if is_on else (120, 84, 50))
    props.draw_dial(canvas, *DIAL, p.off_s - t)


KINDS: Final = (
    Kind(
        name="magnet-carts",
        category=CATEGORY,
        sample=sample_carts,
        vary=lambda p, rng: nudged(p, rng, {"near_s": 0.06, "speed": 0.02 * p.speed}),
        simulate=simulate_carts,
        describe=describe_carts,
        backdrop=backdrop_carts,
        draw=draw_carts,
        label=label_carts,
        breaks=("passes through", "momentum from nothing", "force turned round"),
    ),
    Kind(
        name="magnet-crane",
        category=CATEGORY,
        sample=sample_crane,
        vary=lambda p, rng: nudged(p, rng, {"off_s": 0.05, "start_x": 0.005}),
        simulate=simulate_crane,
        describe=describe_crane,
        backdrop=backdrop_crane,
        draw=draw_crane,
        label=label_crane,
        breaks=("passes through", "stops in the air", "force turned round"),
    ),
)
