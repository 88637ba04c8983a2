"""What the kinds of the wide world share: dials, materials, bystanders, and words for places and times.

A dial runs at one rate everywhere, so that its red sector at the end of the prefix tells when it will act.
States begin with the time in seconds after the switch. World units as in `canvas`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import FAILURE_TYPES, FPS, NUM_FRAMES, SWITCH, Labels, Rng, choice
from engine.demo.scenes.canvas import COLORS, TABLE_Y, Canvas, Color, room, shade
from engine.types import ANSWER_SECONDS

FLOOR_Y: Final = TABLE_Y + 0.10
SUBSTEPS: Final = 30  # per frame: 240 Hz
STEP_S: Final = 1.0 / (FPS * SUBSTEPS)
CAMERA: Final = " Static shot with no camera movement."
DIAL_RATE: Final = float(np.pi / 4)  # rad/s: a full face would be eight seconds
DIAL_RADIUS: Final = 0.095
SIMPLE_SPEED: Final = 0.2  # picture widths/s: what is slower is slow in the sense of the label
INK: Final[Color] = (46, 40, 44)
METAL: Final[Color] = (92, 96, 104)
STEEL: Final[Color] = (116, 124, 138)
WOOD: Final[Color] = (150, 98, 50)
CORK: Final[Color] = (206, 164, 112)
NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is around an experiment and takes no part in it."""

    room: int
    bystander: str  # "", "pinwheel" or "mug"
    x: float
    turn: float  # rad/s of a pinwheel
    color: str


def sample_setting(rng: Rng, xs: Sequence[float] = (0.16, 0.84)) -> Setting:
    """Half of the scenes have a bystander, at one of `xs`."""
    return Setting(
        room=int(rng.integers(4)),
        bystander=str(choice(rng, "", "", "pinwheel", "mug")),
        x=float(choice(rng, *xs)),
        turn=float(choice(rng, -1.0, 1.0)) * float(rng.uniform(0.8, 2.4)),
        color=str(choice(rng, *COLORS)),
    )


def backdrop(setting: Setting, size_px: int, table_y: float = TABLE_Y) -> Canvas:
    canvas = room(size_px, setting.room, table_y)
    if setting.bystander == "mug":
        color = COLORS[setting.color]
        y = table_y - 0.045
        canvas.ellipse(setting.x + 0.055, y, 0.03, 0.035, shade(color, 0.6))
        canvas.box(setting.x, y, 0.1, 0.12, shade(color, 0.75))
        canvas.ellipse(setting.x, y - 0.06, 0.05, 0.016, shade(color, 0.45))
    return canvas


def draw_bystander(canvas: Canvas, setting: Setting, t: float, y: float = 0.2) -> None:
    """The pinwheel on the wall; a mug belongs to the backdrop."""
    if setting.bystander != "pinwheel":
        return
    canvas.line(setting.x, y, setting.x, y + 0.22, 0.016, INK)
    for quarter in range(4):
        angle = setting.turn * t + quarter * np.pi / 2
        tip = (setting.x + 0.085 * float(np.cos(angle)), y + 0.085 * float(np.sin(angle)))
        edge = (setting.x + 0.06 * float(np.cos(angle + 0.7)), y + 0.06 * float(np.sin(angle + 0.7)))
        color = shade(COLORS[setting.color], 1.0 if quarter % 2 else 1.45)
        canvas.polygon([(setting.x, y), tip, edge], color)
    canvas.disc(setting.x, y, 0.014, INK)


def draw_dial(canvas: Canvas, x: float, y: float, left_s: float, radius: float = DIAL_RADIUS) -> None:
    """A face whose red sector shrinks to nothing in `left_s` seconds; then it is green."""
    canvas.disc(x, y, radius * 1.14, INK)
    canvas.disc(x, y, radius, (246, 246, 240) if left_s > 0 else (60, 190, 90))
    if left_s <= 0:
        return
    angle = min(left_s * DIAL_RATE, 2 * np.pi - 1e-3)
    turns = -np.pi / 2 - np.linspace(0.0, angle, 32)
    rim = [(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in turns]
    canvas.polygon([(x, y), *rim], (214, 48, 40))
    canvas.box(x, y - radius, 0.02, 0.03, INK)


def draw_thing(canvas: Canvas, x: float, y: float, radius: float, look: str, spin: float = 0.0) -> None:
    """A ball of a material, or of rubber in one of COLORS."""
    if look in COLORS:
        canvas.ball(x, y, radius, COLORS[look], spin)
        return
    color = {"steel": STEEL, "wooden": WOOD, "cork": CORK, "clay": (96, 84, 92), "wax": (240, 226, 176)}[look]
    canvas.disc(x, y, radius, shade(color, 0.7))
    canvas.disc(x, y, 0.88 * radius, color)
    cos, sin = float(np.cos(spin)), float(np.sin(spin))
    if look == "steel":
        canvas.disc(x - 0.35 * radius, y - 0.38 * radius, 0.3 * radius, (236, 240, 246))
        canvas.disc(x + 0.6 * radius * cos, y + 0.6 * radius * sin, 0.18 * radius, INK)
    elif look == "wooden":
        for ring in (0.66, 0.34):
            canvas.disc(x + 0.16 * radius * cos, y + 0.16 * radius * sin, ring * radius, shade(color, 0.7))
            canvas.disc(x + 0.16 * radius * cos, y + 0.16 * radius * sin, (ring - 0.12) * radius, color)
    else:
        for turn, far in ((0.3, 0.5), (2.2, 0.45), (4.3, 0.55)):
            a = spin + turn
            dent = (x + far * radius * float(np.cos(a)), y + far * radius * float(np.sin(a)))
            canvas.disc(*dent, 0.17 * radius, shade(color, 0.66))


def draw_clamp(canvas: Canvas, x: float, top: float, radius: float, opening: float) -> None:
    """A rod from above whose jaws hold a ball that begins at `top`; `opening` 1 sets them apart."""
    canvas.box(x, (top - 0.02) / 2, 0.035, max(top - 0.02, 0.0), METAL)
    half = radius * (1.05 + 0.4 * opening)
    canvas.box(x, top - 0.02, 2.0 * half + 0.03, 0.035, INK)
    for sign in (-1.0, 1.0):
        canvas.box(x + sign * half, top + radius * 0.5, 0.028, radius * 1.3, INK)


def frame_times() -> np.ndarray:
    """Seconds after the switch of every frame, float64 [NUM_FRAMES]."""
    return (np.arange(NUM_FRAMES) - SWITCH) / FPS


def at(t: float) -> float:
    """An event's time as a plan tells it: within the answer."""
    return float(np.clip(t, 0.0, ANSWER_SECONDS))


def first_s(happens: np.ndarray) -> float | None:
    """Seconds after the switch of the first answer frame at which `happens` [NUM_FRAMES]; None if never."""
    found = np.flatnonzero(happens[SWITCH:])
    return None if len(found) == 0 else int(found[0]) / FPS


def place(x: float) -> str:
    """Where something ends, in three words, or that it is gone."""
    if not 0.0 <= x <= 1.0:
        return "out of the picture"
    return "on the left" if x < 0.36 else "on the right" if x > 0.64 else "in the middle"


def pace(speed: float) -> str:
    """Picture widths per second in three words; these scenes are quicker than the plain ones."""
    return "slow" if speed < 0.16 else "medium" if speed < 0.27 else "fast"


def labels_of(*, speed: float, movers: int, interactions: int, alike: bool, soft: bool, parts: int) -> Labels:
    """The labels of a scene from what is known of it.

    `speed` of the fastest mover in picture widths/s; `movers` that move in the answer; `interactions` of
    different things one after another; `alike`: others look like what moves; `soft`: water, glow, beams and
    shadows have no edge of their own; `parts` that act one on the next. Simple is what the paper calls so:
    slow, continuous, a single target, a single interaction.
    """
    found = (soft, parts >= 4, alike, interactions >= 2)
    simple = speed < SIMPLE_SPEED and movers <= 1 and interactions <= 1 and parts < 4
    return Labels(
        simple=simple, failures=tuple(n for n, given in zip(FAILURE_TYPES, found, strict=True) if given)
    )


def mean_speed(track: np.ndarray) -> float:
    """The largest speed, picture widths/s, of any column of [NUM_FRAMES, D] over the answer."""
    steps = np.abs(np.diff(np.asarray(track, np.float64)[SWITCH - 1 :], axis=0))
    return float(steps.max()) * FPS


def at_rest(value: Any) -> float | None:
    """A plan's time of rest, at most the end of the answer."""
    return None if value is None else at(float(value))
