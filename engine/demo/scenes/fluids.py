"""Fluid scenes: a glass is filled from a tap; a drop of dye spreads in a channel of clear water.

Short closed formulas instead of a flow solver: volume conservation for the glass, the Gaussian solution of
the advection-diffusion equation for the dye. Knows no forces; lengths are in picture widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from engine.demo.scenes.base import FPS, NUM_FRAMES, Kind, Rng, choice, frame_time_s, nudged, rest_time_s
from engine.demo.scenes.canvas import COLORS, SUPERSAMPLE, Canvas, Color, room, shade
from engine.demo.scenes.rigid import FLOOR_Y, GRAVITY, contact_time_s, side, speed_word
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

CATEGORY: Final = "Fluid Dynamics"

# ---------------------------------------------------------------- a glass is filled from a tap

GLASS_WIDTH: Final = 0.44
GLASS_HEIGHT: Final = 0.50
TAP_Y: Final = 0.20  # the mouth of the tap
JET_SPEED: Final = 1.6  # of the falling jet's head and tail, picture widths/s
PUDDLE_DEPTH: Final = 0.04
STEPS: Final = 10  # per frame
METAL: Final[Color] = (98, 104, 114)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    room: int
    color: str
    rate: float  # rise of the level, picture heights/s
    open_s: float  # when the tap opens
    level: float  # height of the liquid at the start
    mark: float | None  # height at which the tap closes by itself; None: no mark, it never does


def sample_filling(rng: Rng) -> Filling:
    rate = float(choice(rng, rng.uniform(0.032, 0.042), rng.uniform(0.056, 0.068), rng.uniform(0.086, 0.1)))
    open_s, marked = float(rng.uniform(-2.75, -2.25)), bool(rng.uniform() < 0.7)
    level = float(rng.uniform(0.03, 0.14) if marked else rng.uniform(0.1, 0.26))
    brim_s = open_s + (0.92 * GLASS_HEIGHT - level) / rate
    reach_s = float(rng.uniform(0.4, min(max(brim_s, 0.5), 6.0)))
    mark = level + rate * (reach_s - open_s) if marked else None
    return Filling(
        room=int(rng.integers(4)),
        color=str(choice(rng, *COLORS)),
        rate=rate,
        open_s=open_s,
        level=level,
        mark=mark,
    )


def rise_word(rate: float) -> str:
    """Rise of a level in picture heights per second, in three words."""
    return "slow" if rate < 0.048 else "medium" if rate < 0.077 else "fast"


def simulate_filling(p: Filling) -> list[Any]:
    """Per frame: (level, y of the jet's tail, y of its head, spilled height, tap open).

    Volume conservation in a straight glass: dh/dt = flow / cross-section = `rate` while the jet touches the
    surface. The tap closes one fall time early, so that the rest of the jet fills up to the mark exactly.
    """
    level, tail, head, spilled, closed = p.level, TAP_Y, TAP_Y, 0.0, False
    step, states = 1.0 / (FPS * STEPS), []
    for frame in range(NUM_FRAMES):
        states.append((level, tail, head, spilled, frame_time_s(frame) >= p.open_s and not closed))
        for substep in range(STEPS):
            if frame_time_s(frame) + substep * step < p.open_s:
                continue
            surface = FLOOR_Y - level
            in_flight = p.rate * (surface - TAP_Y) / JET_SPEED
            closed = closed or (p.mark is not None and level + in_flight >= p.mark)
            head = min(surface, head + JET_SPEED * step)
            tail = min(surface, tail + JET_SPEED * step * closed)
            level += p.rate * step * (head >= surface > tail)
            spilled += max(level - GLASS_HEIGHT, 0.0)
            level = min(level, GLASS_HEIGHT)
    return states


def fullness(fraction: float) -> str:
    for limit, word in ((0.42, "a third full"), (0.6, "half full"), (0.8, "mostly full")):
        if fraction < limit:
            return word
    return "nearly full"


def describe_filling(p: Filling, states: list[Any]) -> tuple[str, PhysicsPlan]:
    track = np.array(states, np.float64)
    liquid, full = f"{p.color} liquid", fullness(float(track[-1, 0]) / GLASS_HEIGHT)
    over_s = contact_time_s(-track[:, 3], -1e-6)
    rest = None if over_s is not None else rest_time_s(track[:, :1], tolerance=1e-4)
    texts: tuple[tuple[float, str], ...]
    if over_s is not None:
        late = min(over_s + 0.5, 5.0)
        texts = ((over_s, f"the {liquid} reaches the rim"), (late, f"the {liquid} runs over onto the table"))
    elif rest is not None:
        texts = (
            (rest, f"the {liquid} reaches the mark and the tap closes"),
            (rest, f"the glass stays {full}"),
        )
    else:
        texts = ((5.0, f"the glass is {full} and the {liquid} still rises"),)
    plan = PhysicsPlan(
        objects=(
            PlanObject(name="liquid", trait=p.color),
            PlanObject(name="glass", trait="plain" if p.mark is None else "marked"),
        ),
        motion=(PlanMotion(object=liquid, direction="up", speed=rise_word(p.rate)),),
        events=tuple(PlanEvent(t=t, what=what) for t, what in texts),
        rest=(PlanRest(object=liquid, t=rest),),
        still=("glass", "tap"),
    )
    return "Liquid pours from a tap into a glass. Static shot with no camera movement.", plan


def backdrop_filling(p: Filling, size_px: int) -> Canvas:
    canvas = room(size_px, p.room)
    canvas.box(0.5, 0.05, 0.09, 0.12, shade(METAL, 0.85))
    canvas.box(0.5, 0.15, 0.13, 0.10, METAL)
    canvas.box(0.5, TAP_Y - 0.005, 0.09, 0.03, shade(METAL, 0.7))
    canvas.shadow(0.5, FLOOR_Y + 0.02, GLASS_WIDTH * 1.5)
    middle, half = FLOOR_Y - GLASS_HEIGHT / 2, GLASS_WIDTH / 2
    canvas.box(0.5, middle, GLASS_WIDTH, GLASS_HEIGHT, (250, 252, 255), alpha=0.4)
    for x in (0.5 - half - 0.01, 0.5 + half + 0.01):
        canvas.box(x, middle + 0.01, 0.02, GLASS_HEIGHT + 0.02, (126, 146, 162))
    canvas.box(0.5, FLOOR_Y + 0.012, GLASS_WIDTH + 0.04, 0.025, (126, 146, 162))
    return canvas


def draw_filling(canvas: Canvas, p: Filling, state: Any) -> None:
    level, tail, head, spilled, is_open = state
    color, half = COLORS[p.color], GLASS_WIDTH / 2
    if spilled > 0:
        run = min(GLASS_HEIGHT + 0.02, 0.7 * spilled / p.rate)  # length of the film on the outside
        # a puddle of constant depth: pi d r^2 = spilled volume, around the foot of the glass
        radius = float(np.sqrt(half**2 + spilled * half**2 / PUDDLE_DEPTH))
        if run > GLASS_HEIGHT:
            canvas.ellipse(0.5, FLOOR_Y + 0.03, radius, 0.2 * radius, shade(color, 0.9))
        for x in (0.5 - half - 0.025, 0.5 + half + 0.025):
            canvas.box(x, FLOOR_Y - GLASS_HEIGHT + run / 2, 0.05, run, color)
    if head > tail:
        canvas.box(0.5, (tail + head) / 2, 0.19 * float(np.sqrt(p.rate)), head - tail, shade(color, 1.15))
    canvas.box(0.5, FLOOR_Y - level / 2, GLASS_WIDTH, level, color)
    canvas.box(0.5, FLOOR_Y - level + 0.012, GLASS_WIDTH, 0.024, shade(color, 1.35))
    canvas.box(0.5 - half + 0.05, FLOOR_Y - GLASS_HEIGHT / 2, 0.02, 0.4, (255, 255, 255), alpha=0.35)
    if p.mark is not None:
        y, left = FLOOR_Y - p.mark, 0.5 - half
        canvas.box(0.5, y, GLASS_WIDTH, 0.018, (28, 28, 34))
        canvas.polygon([(left, y), (left - 0.11, y - 0.055), (left - 0.11, y + 0.055)], (28, 28, 34))
    # the lever lies along the pipe while the tap is open, across it when closed
    canvas.box(0.5, 0.15, 0.05, 0.16, (196, 48, 44), angle_rad=0.0 if is_open else np.pi / 2)


# ---------------------------------------------------------------- a drop of dye spreads in water

SURFACE_Y: Final = 0.30
BED_Y: Final = 0.94
DROPPER_Y: Final = 0.10
DROP_SIGMA: Final = 0.055  # of the cloud just after the impact
DEPTH: Final = 0.30  # of the cloud's centre below the surface, once its fall is used up
ABSORBANCE: Final = 16.0  # of the fresh cloud's centre; 1 shows the dye's own colour
WATER: Final[Color] = (216, 233, 241)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dye:
    room: int
    color: str
    drop_x: float
    release_s: float
    drift: float  # flow of the water, picture widths/s, positive to the right
    diffusivity: float  # picture widths^2/s


def sample_dye(rng: Rng) -> Dye:
    drift = float(choice(rng, 0.0, rng.uniform(0.045, 0.065), rng.uniform(0.115, 0.14)))
    sign = float(choice(rng, -1.0, 1.0))
    return Dye(
        room=int(rng.integers(4)),
        color=str(choice(rng, *COLORS)),
        drop_x=0.5 - sign * (float(rng.uniform(0.2, 0.28)) if drift else float(rng.uniform(-0.15, 0.15))),
        release_s=float(rng.uniform(-2.8, -2.4)),
        drift=sign * drift,
        diffusivity=float(choice(rng, rng.uniform(0.0004, 0.0007), rng.uniform(0.003, 0.0045))),
    )


def simulate_dye(p: Dye) -> list[Any]:
    """Per frame: (y of the drop, cloud x, cloud y, cloud variance); the variance is 0 before the impact.

    Point release in a uniform flow u with diffusivity D: a Gaussian around x0 + u t with variance
    s0^2 + 2 D t (Fischer et al., Mixing in Inland and Coastal Waters, 1979, ch. 2). Drag uses up the drop's
    fall exponentially, within about a second.
    """
    fall_s = float(np.sqrt(2 * (SURFACE_Y - DROPPER_Y) / GRAVITY))
    states: list[Any] = []
    for frame in range(NUM_FRAMES):
        since = frame_time_s(frame) - p.release_s
        wet = since - fall_s
        if wet < 0:
            states.append((DROPPER_Y + 0.5 * GRAVITY * max(since, 0.0) ** 2, p.drop_x, SURFACE_Y, 0.0))
            continue
        depth = DEPTH * (1.0 - float(np.exp(-wet / 0.5)))
        variance = DROP_SIGMA**2 + 2 * p.diffusivity * wet
        states.append((SURFACE_Y, p.drop_x + p.drift * wet, SURFACE_Y + depth, variance))
    return states


def absorbance(state: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Optical depth of the cloud on the grid y, x; image sources make surface and bed impermeable."""
    _, cloud_x, cloud_y, variance = state
    if variance == 0.0:
        return np.zeros((len(y), len(x)))
    across = np.exp(-((x - cloud_x) ** 2) / (2 * variance))
    sources = (cloud_y, 2 * SURFACE_Y - cloud_y, 2 * BED_Y - cloud_y)
    down = sum(np.exp(-((y - source) ** 2) / (2 * variance)) for source in sources)
    return np.asarray(ABSORBANCE * DROP_SIGMA**2 / variance * np.outer(down, across))


def describe_dye(p: Dye, states: list[Any]) -> tuple[str, PhysicsPlan]:
    dye, track = f"{p.color} dye", np.array(states)
    bed = np.array([absorbance(s, np.linspace(0, 1, 33), np.array([BED_Y])).max() for s in states])
    bed_s, out_s = contact_time_s(-bed, -0.5), contact_time_s(-np.abs(track[:, 1] - 0.5), -0.5)
    spread = "slow" if p.diffusivity < 0.0015 else "fast"
    look = {"slow": "dark and narrow", "fast": "pale and wide"}[spread]
    end_x = float(track[-1, 1])
    place = "on the left" if end_x < 0.38 else "on the right" if end_x > 0.62 else "in the middle"
    events = []
    if bed_s:
        events.append(PlanEvent(t=bed_s, what=f"the {dye} reaches the bottom"))
    if out_s is not None:
        events.append(PlanEvent(t=out_s, what=f"the {dye} leaves the picture {place}"))
    else:
        events.append(PlanEvent(t=5.0, what=f"the {dye} is {look} {place}"))
    motion = [PlanMotion(object=dye, direction="outward", speed=spread)]
    if p.drift:
        motion.append(PlanMotion(object=dye, direction=side(p.drift), speed=speed_word(abs(p.drift))))
    plan = PhysicsPlan(
        objects=(PlanObject(name="dye", trait=p.color), PlanObject(name="channel", trait="wide")),
        motion=tuple(motion),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(PlanRest(object=dye, t=None),),
        still=("dropper", "channel"),
    )
    return "A drop of dye falls into a channel of clear water. Static shot with no camera movement.", plan


def backdrop_dye(p: Dye, size_px: int) -> Canvas:
    canvas = room(size_px, p.room, table_y=BED_Y)
    canvas.gradient(WATER, WATER, SURFACE_Y, BED_Y)
    canvas.box(0.5, SURFACE_Y, 1.2, 0.016, (120, 150, 172))
    canvas.box(0.5, BED_Y + 0.012, 1.2, 0.024, (112, 122, 132))
    canvas.box(p.drop_x, 0.03, 0.10, 0.06, (52, 54, 62))
    canvas.polygon(
        [(p.drop_x + dx, y) for dx, y in ((-0.04, 0.05), (0.04, 0.05), (0.015, 0.10), (-0.015, 0.10))],
        (150, 170, 184),
    )
    return canvas


def draw_dye(canvas: Canvas, p: Dye, state: Any) -> None:
    color = COLORS[p.color]
    drop_y, variance = state[0], state[3]
    if variance == 0.0:
        if drop_y > DROPPER_Y:
            canvas.polygon(
                [(p.drop_x - 0.04, drop_y), (p.drop_x, drop_y - 0.1), (p.drop_x + 0.04, drop_y)], color
            )
            canvas.ball(p.drop_x, drop_y + 0.01, 0.05, color)
        return
    first, last = round((SURFACE_Y + 0.008) * canvas.side), round(BED_Y * canvas.side)
    columns, rows = canvas.side // SUPERSAMPLE, (last - first) // SUPERSAMPLE
    x = (np.arange(columns) + 0.5) / columns
    y = (first + (np.arange(rows) + 0.5) * (last - first) / rows) / canvas.side
    # Beer-Lambert per colour channel; the soft ceiling keeps the dye's hue where the cloud is dense
    depth = 1.2 * (1.0 - np.exp(-absorbance(state, x, y) / 1.2))
    tint = np.log(np.array(color) / np.array(WATER))
    light = np.array(WATER) * np.exp(depth[..., None].astype(np.float32) * tint.astype(np.float32))
    cloud = light.round().astype(np.uint8)
    canvas.image[first:last] = cv2.resize(cloud, (canvas.side, last - first), interpolation=cv2.INTER_LINEAR)


KINDS: Final = (
    Kind(
        name="filling-glass",
        category=CATEGORY,
        sample=sample_filling,
        vary=lambda p, rng: nudged(p, rng, {"rate": 0.02 * p.rate, "level": 0.002}),
        simulate=simulate_filling,
        describe=describe_filling,
        backdrop=backdrop_filling,
        draw=draw_filling,
    ),
    Kind(
        name="dye-spreading",
        category=CATEGORY,
        sample=sample_dye,
        vary=lambda p, rng: nudged(
            p,
            rng,
            {
                "drop_x": 0.002,
                "release_s": 0.04,
                "drift": 0.02 * abs(p.drift),
                "diffusivity": 0.04 * p.diffusivity,
            },
        ),
        simulate=simulate_dye,
        describe=describe_dye,
        backdrop=backdrop_dye,
        draw=draw_dye,
    ),
)
