"""Thermodynamics scenes: an ice cube melts on a hot plate; heat spreads along a bar.

Energy balances in a few lines of numerics; lengths are in picture widths and material constants are scaled so
that eight seconds show what a bench experiment shows in minutes. The heat itself is seen by its glow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import (
    FPS,
    NUM_FRAMES,
    Kind,
    Rng,
    choice,
    frame_time_s,
    nudged,
)
from engine.demo.scenes.canvas import Canvas, Color, Point, shade
from engine.demo.scenes.rigid import contact_time_s, side
from engine.types import ANSWER_SECONDS, PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

CATEGORY: Final = "Thermodynamics"
SPEEDS: Final = ("slow", "medium", "fast")

# (wall top, wall bottom, bench): dim rooms, in which ice and glow stand out
DIM_ROOMS: Final[tuple[tuple[Color, Color, Color], ...]] = (
    ((64, 72, 90), (48, 54, 70), (92, 76, 62)),
    ((52, 74, 76), (38, 56, 58), (86, 84, 80)),
    ((76, 66, 84), (56, 48, 64), (74, 70, 78)),
    ((70, 74, 78), (50, 54, 58), (98, 84, 66)),
)
BENCH_Y: Final = 0.86


def dim_room(size_px: int, index: int) -> Canvas:
    canvas = Canvas(size_px)
    top, bottom, bench = DIM_ROOMS[index % len(DIM_ROOMS)]
    canvas.gradient(top, bottom, 0.0, BENCH_Y)
    canvas.gradient(bench, shade(bench, 0.75), BENCH_Y, 1.0)
    return canvas


# ---------------------------------------------------------------- an ice cube melts on a hot plate

PLATE_Y: Final = 0.66  # of the middle of the plate's top
PLATE_HALF: Final = 0.47
PLATE_TILT: Final = 0.20  # screen height of the plate's top per unit of depth
HEATER_Y: Final = 0.83
FILM_DEPTH: Final = 0.15  # of the puddle, scaled like the times
ICE_DENSITY: Final = 0.917  # relative to water
POWERS: Final = ("low", "medium", "high")
HEAT_GLOW: Final[dict[str, Color]] = {"low": (140, 34, 26), "medium": (238, 112, 30), "high": (255, 240, 150)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Melting:
    room: int
    edge: float  # of the cube at the start
    power: str  # of the heater
    rate: float  # at which the edge shrinks, picture widths/s
    on_s: float  # when the heater is switched on
    cube_x: float


MELT_RATES: Final = {"low": (0.021, 0.026), "medium": (0.042, 0.049), "high": (0.07, 0.082)}


def sample_melting(rng: Rng) -> Melting:
    power = str(choice(rng, *POWERS))
    return Melting(
        room=int(rng.integers(4)),
        edge=float(rng.uniform(0.3, 0.47)),
        power=power,
        rate=float(rng.uniform(*MELT_RATES[power])),
        on_s=float(rng.uniform(-2.3, -1.8)),
        cube_x=float(rng.uniform(0.44, 0.56)),
    )


def simulate_melting(p: Melting) -> list[Any]:
    """Per frame: (edge of the cube, radius of the puddle, heater on).

    Energy balance of a cube of edge a on a plate that passes the heat flux q through the contact face:
    rho L d(a^3)/dt = -q a^2, so da/dt = -q / (3 rho L) is constant (Incropera, Fundamentals of Heat and Mass
    Transfer, ch. 1: phase change in an energy balance). The water, rho_ice / rho_water (a0^3 - a^3), lies as
    a disc of constant depth.
    """
    states = []
    for frame in range(NUM_FRAMES):
        heated_s = max(frame_time_s(frame) - p.on_s, 0.0)
        edge = max(p.edge - p.rate * heated_s, 0.0)
        water = ICE_DENSITY * (p.edge**3 - edge**3)
        states.append((edge, float(np.sqrt(water / (np.pi * FILM_DEPTH))), heated_s > 0))
    return states


def describe_melting(p: Melting, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array(states, np.float64)
    speed = SPEEDS[POWERS.index(p.power)]
    gone_s = contact_time_s(track[:, 0], 0.0)
    half_s = contact_time_s(track[:, 0], p.edge / 2)
    size = "wide" if track[-1, 1] > 0.33 else "medium" if track[-1, 1] > 0.23 else "small"
    events = [PlanEvent(t=half_s, what="the ice cube is half as tall")] if half_s else []
    if gone_s is not None:
        events.append(PlanEvent(t=gone_s, what=f"the ice cube is gone and the puddle is {size}"))
    else:
        left = (float(track[-1, 0]) / p.edge) ** 2  # of the face one sees
        share = "most" if left > 0.5 else "some" if left > 0.12 else "little"
        events.append(PlanEvent(t=ANSWER_SECONDS, what=f"{share} ice is left and the puddle is {size}"))
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="ice cube", trait="large" if p.edge > 0.385 else "small"),
            PlanObject(name="heater", trait=f"{p.power} power"),
        ),
        motion=(
            PlanMotion(object="ice top", direction="down", speed=speed),
            PlanMotion(object="puddle", direction="outward", speed=speed),
        ),
        events=tuple(events),
        rest=(PlanRest(object="ice cube", t=gone_s), PlanRest(object="puddle", t=gone_s)),
        still=("plate", "heater"),
    )
    return "An ice cube stands on a metal plate over a heater. Static shot with no camera movement.", plan


def backdrop_melting(p: Melting, size_px: int) -> Canvas:
    canvas = dim_room(size_px, p.room)
    for x in (0.14, 0.86):
        canvas.box(x, 0.82, 0.05, 0.24, (44, 46, 52))
    lift = PLATE_TILT * 0.5
    top = [(0.09, PLATE_Y - lift), (0.91, PLATE_Y - lift), (0.97, PLATE_Y + lift), (0.03, PLATE_Y + lift)]
    canvas.polygon(top, (120, 124, 132))
    canvas.box(0.5, PLATE_Y + lift + 0.02, 0.94, 0.04, (78, 82, 90))
    canvas.box(0.5, 0.93, 0.62, 0.09, (36, 38, 44))
    return canvas


def draw_melting(canvas: Canvas, p: Melting, state: Any) -> None:
    edge, radius, is_on = state
    canvas.box(0.5, HEATER_Y + 0.01, 0.56, 0.09, HEAT_GLOW[p.power] if is_on else (60, 60, 66))
    if radius > 0.01:
        tilt = 0.24
        canvas.ellipse(p.cube_x, PLATE_Y + 0.01, radius, tilt * radius, (40, 92, 190))
        canvas.ellipse(p.cube_x, PLATE_Y + 0.004, 0.93 * radius, tilt * 0.9 * radius, (66, 134, 226))
    if edge > 0.005:
        middle = PLATE_Y + 0.02 - edge / 2
        # melting rounds the corners: a superellipse whose exponent falls with the edge
        power = 2.0 / (2.5 + 8.0 * (edge / p.edge) ** 2)
        canvas.polygon(superellipse(p.cube_x, middle, edge / 2, power), (168, 206, 232))
        canvas.polygon(superellipse(p.cube_x, middle, edge * 0.44, power), (226, 243, 252))
        canvas.line(
            p.cube_x - 0.25 * edge,
            middle + 0.05 * edge,
            p.cube_x + 0.05 * edge,
            middle - 0.28 * edge,
            0.07 * edge,
            (255, 255, 255),
        )


def superellipse(x: float, y: float, radius: float, power: float) -> list[Point]:
    """Outline |u|^(2/power) + |v|^(2/power) = 1, scaled to `radius`: a circle at 1, a square towards 0."""
    turn = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
    cos, sin = np.cos(turn), np.sin(turn)
    xs = x + radius * np.sign(cos) * np.abs(cos) ** power
    ys = y + radius * np.sign(sin) * np.abs(sin) ** power
    return [(float(a), float(b)) for a, b in zip(xs, ys, strict=True)]


# ---------------------------------------------------------------- heat spreads along a bar

BAR_HALF: Final = 0.42
BAR_Y: Final = 0.44
BAR_THICKNESS: Final = 0.19
CELLS: Final = 42
COOLING: Final = 0.02  # to the air, 1/s
GLOWS: Final = 0.28  # relative temperature from which the glow counts as arrived
# scaled diffusivities, picture widths^2/s; the order copper > iron > glass is that of the materials
# (1.1e-4, 2.3e-5 and 3.4e-7 m^2/s)
DIFFUSIVITY: Final = {"copper": (0.038, 0.048), "iron": (0.013, 0.017), "glass": (0.0016, 0.0022)}
BAR_COLOR: Final[dict[str, Color]] = {
    "copper": (168, 108, 66),
    "iron": (104, 110, 122),
    "glass": (160, 206, 210),
}
GLOW_STOPS: Final = ((0.10, None), (0.22, (150, 16, 12)), (0.45, (236, 58, 20)), (0.85, (255, 226, 90)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heating:
    room: int
    material: str
    end: float  # -1: the flame is at the left end, 1: at the right end
    diffusivity: float
    lit_s: float


def sample_heating(rng: Rng) -> Heating:
    material = str(choice(rng, "copper", "copper", "iron", "iron", "glass"))
    return Heating(
        room=int(rng.integers(4)),
        material=material,
        end=float(choice(rng, -1.0, 1.0)),
        diffusivity=float(rng.uniform(*DIFFUSIVITY[material])),
        lit_s=float(rng.uniform(-2.5, -2.0)),
    )


def simulate_heating(p: Heating) -> list[Any]:
    """Per frame: (temperature of each cell from the flame on, float64 [CELLS], flame burns).

    Explicit finite differences of dT/dt = a d2T/dx2 - k T (forward in time, centred in space; stable for
    a dt / dx^2 <= 1/2), with T = 1 in the flame and an insulated far end.
    """
    cell = 2 * BAR_HALF / CELLS
    steps = int(np.ceil(p.diffusivity / (0.4 * cell**2 * FPS)))
    step = 1.0 / (FPS * steps)
    heat = np.zeros(CELLS + 2)  # one more cell at either end holds the boundary condition
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        burns = frame_time_s(frame) >= p.lit_s
        states.append((heat[1:-1].copy(), burns))
        for _ in range(steps if burns else 0):
            heat[0], heat[-1] = 1.0, heat[-2]
            flow = heat[2:] - 2 * heat[1:-1] + heat[:-2]
            heat[1:-1] += step * (p.diffusivity / cell**2 * flow - COOLING * heat[1:-1])
    return states


def glow_front(states: list[Any]) -> np.ndarray:
    """Share of the bar that glows, float64 [NUM_FRAMES], interpolated between cells."""
    cells = np.arange(1, CELLS + 1) / CELLS
    # temperature falls along the bar, so its negative rises as interpolation needs it
    return np.array([float(np.interp(-GLOWS, -heat, cells, left=0.0)) for heat, _ in states])


def describe_heating(p: Heating, states: list[Any]) -> tuple[str, PhysicsPlan]:
    front = glow_front(states)
    hot, cold = side(p.end), side(-p.end)
    middle_s, far_s = contact_time_s(-front, -0.5), contact_time_s(-front, -0.999)
    reached = "a small part" if front[-1] < 0.25 else "half" if front[-1] < 0.6 else "most"
    events = []
    if middle_s:
        events.append(PlanEvent(t=middle_s, what="the glow reaches the middle of the bar"))
    if far_s is not None:
        events.append(PlanEvent(t=far_s, what=f"the glow reaches the {cold} end"))
    else:
        events.append(PlanEvent(t=ANSWER_SECONDS, what=f"{reached} of the bar glows at the {hot} end"))
    speed = {"copper": "fast", "iron": "medium", "glass": "slow"}[p.material]
    plan = PhysicsPlan(
        objects=(PlanObject(name="bar", trait=p.material), PlanObject(name="flame", trait=hot)),
        motion=(PlanMotion(object="glow", direction=cold, speed=speed),),
        events=tuple(events),
        # the glow is its front: once it has crossed the bar only the colour still changes
        rest=(PlanRest(object="glow", t=far_s),),
        still=("bar", "flame"),
    )
    return "A flame heats one end of a bar. Static shot with no camera movement.", plan


def backdrop_heating(p: Heating, size_px: int) -> Canvas:
    canvas = dim_room(size_px, p.room)
    for x in (0.3, 0.7):
        canvas.box(x, 0.72, 0.05, 0.4, (30, 32, 38))
        canvas.box(x, 0.92, 0.16, 0.04, (30, 32, 38))
    color = BAR_COLOR[p.material]
    canvas.box(0.5, BAR_Y, 2 * BAR_HALF + 0.02, BAR_THICKNESS + 0.02, shade(color, 0.55))
    burner_x = 0.5 + p.end * (BAR_HALF - 0.06)
    canvas.box(burner_x, 0.88, 0.09, 0.14, (56, 60, 68))
    canvas.box(burner_x, 0.95, 0.2, 0.04, (40, 42, 48))
    return canvas


def glow_colors(heat: np.ndarray, base: Color) -> np.ndarray:
    """uint8 RGB [1, CELLS, 3]: the material's colour, then dark red, red and yellow as it heats up."""
    stops = [stop for stop, _ in GLOW_STOPS]
    table = np.array([base if color is None else color for _, color in GLOW_STOPS], np.float64)
    channels = [np.interp(heat, stops, table[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)[None]


def draw_heating(canvas: Canvas, p: Heating, state: Any) -> None:
    heat, burns = state
    colors = glow_colors(heat if p.end < 0 else heat[::-1], BAR_COLOR[p.material])
    left, right = round((0.5 - BAR_HALF) * canvas.side), round((0.5 + BAR_HALF) * canvas.side)
    top, bottom = (round((BAR_Y + dy) * canvas.side) for dy in (-BAR_THICKNESS / 2, BAR_THICKNESS / 2))
    # cell centres lie half a cell inside the ends, which linear interpolation repeats outwards
    columns = np.linspace(-0.5, CELLS - 0.5, right - left)
    row = np.stack(
        [np.interp(columns, np.arange(CELLS), colors[0, :, channel]) for channel in range(3)], axis=-1
    )
    canvas.image[top:bottom, left:right] = row.round().astype(np.uint8)
    if burns:
        x = 0.5 + p.end * (BAR_HALF - 0.06)
        for size, color in ((1.0, (226, 96, 30)), (0.72, (250, 178, 50)), (0.42, (255, 240, 170))):
            tip, foot, half = 0.81 - 0.27 * size, 0.81, 0.075 * size
            canvas.polygon(
                [(x, tip), (x + half, foot - 0.06 * size), (x, foot), (x - half, foot - 0.06 * size)], color
            )


KINDS: Final = (
    Kind(
        name="melting-ice",
        category=CATEGORY,
        sample=sample_melting,
        vary=lambda p, rng: nudged(p, rng, {"edge": 0.003, "rate": 0.015 * p.rate, "on_s": 0.03}),
        simulate=simulate_melting,
        describe=describe_melting,
        backdrop=backdrop_melting,
        draw=draw_melting,
    ),
    Kind(
        name="heating-bar",
        category=CATEGORY,
        sample=sample_heating,
        vary=lambda p, rng: nudged(p, rng, {"diffusivity": 0.03 * p.diffusivity, "lit_s": 0.04}),
        simulate=simulate_heating,
        describe=describe_heating,
        backdrop=backdrop_heating,
        draw=draw_heating,
    ),
)
