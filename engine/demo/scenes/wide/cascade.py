"""Fluid dynamics: a tap fills a cup, which spills over into a second one, which may spill over too.

How fast is told by the jet, when the tap closes by its dial, and what overflows when by the widths of the
cups and by what is in them from the start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.base import Kind, Labels, Rng, choice, nudged
from engine.demo.scenes.canvas import COLORS, Canvas, shade
from engine.demo.scenes.fluids import CATEGORY
from engine.demo.scenes.wide import props
from engine.demo.scenes.wide.props import METAL, Setting
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

UPPER_Y: Final = 0.5  # of the bottom of the upper cup
LOWER_Y: Final = 0.92
HEIGHTS: Final = (0.24, 0.3)  # of the upper and the lower cup
TAP_Y: Final = 0.13
JETS: Final = {"thin": (0.013, 0.017), "thick": (0.024, 0.032)}  # volume/s per unit of depth


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    setting: Setting
    color: str
    sign: float  # the side to which the upper cup spills
    jet: str
    flow: float
    widths: tuple[float, float]
    filled: tuple[float, float]  # shares of the cups at the start of the prefix
    open_s: float
    close_s: float
    broken: str = ""
    broken_s: float = 0.0

    @property
    def xs(self) -> tuple[float, float]:
        """Middles of the cups: the lower one stands under the spout of the upper."""
        upper = 0.5 - 0.16 * self.sign
        return upper, upper + self.sign * (self.widths[0] / 2 + 0.035 + self.widths[1] * 0.2)


def sample_cascade(rng: Rng) -> Cascade:
    jet = str(choice(rng, *JETS))
    open_s = float(rng.uniform(-2.4, -1.0))
    return Cascade(
        setting=replace(props.sample_setting(rng), bystander=""),
        color=str(choice(rng, "blue", "green", "purple", "orange")),
        sign=float(choice(rng, -1.0, 1.0)),
        jet=jet,
        flow=float(rng.uniform(*JETS[jet])),
        widths=(float(rng.uniform(0.22, 0.32)), float(rng.uniform(0.22, 0.36))),
        filled=(float(rng.uniform(0.05, 0.6)), float(rng.uniform(0.05, 0.6))),
        open_s=open_s,
        close_s=float(rng.uniform(0.8, 4.4)),
    )


def simulate_cascade(p: Cascade) -> list[Any]:
    """States (t, upper level, lower level, tap runs, upper spills, lower spills).

    Volumes are conserved: what comes in above a full cup leaves it at once, a jet falls without delay.
    """
    areas = [width * height for width, height in zip(p.widths, HEIGHTS, strict=True)]
    came = p.flow * np.clip(props.frame_times() - p.open_s, 0.0, p.close_s - p.open_s)
    upper = np.minimum(p.filled[0] * areas[0] + came, areas[0])
    over = p.filled[0] * areas[0] + came - upper
    lower = np.minimum(p.filled[1] * areas[1] + over, areas[1])
    runs = (props.frame_times() >= p.open_s) & (props.frame_times() < p.close_s)
    spills, floods = runs & (upper >= areas[0]), runs & (lower >= areas[1]) & (upper >= areas[0])
    levels = upper / p.widths[0], lower / p.widths[1]
    rows = zip(props.frame_times(), *levels, runs, spills, floods, strict=True)
    return [(float(t), float(a), float(b), bool(r), bool(s), bool(f)) for t, a, b, r, s, f in rows]


def describe_cascade(p: Cascade, states: list[Any]) -> tuple[str, PhysicsPlan]:
    levels = np.array([state[1:3] for state in states])
    flags = np.array([state[3:] for state in states])
    events = []
    for column, what in ((1, "the upper cup is full and spills over"), (2, "the lower cup spills over too")):
        start = props.first_s(flags[:, column])
        if start is not None:
            events.append(PlanEvent(t=start, what=what))
    events.append(PlanEvent(t=p.close_s, what="the tap closes"))
    ends = [fullness(float(share)) for share in levels[-1] / HEIGHTS]
    events.append(PlanEvent(t=5.0, what=f"the upper cup is {ends[0]} and the lower cup is {ends[1]}"))
    speed = "fast" if p.jet == "thick" else "slow"
    plan = PhysicsPlan(
        objects=(PlanObject(name="jet", trait=f"{p.jet} {p.color}"), PlanObject(name="cups", trait="two")),
        motion=(
            PlanMotion(object="upper level", direction="up", speed=speed),
            PlanMotion(object="lower level", direction="up", speed=speed),
        ),
        events=tuple(sorted(events, key=lambda event: event.t)),
        rest=(PlanRest(object="water", t=props.at(p.close_s)),),
        still=("cups", "tap"),
    )
    return f"Water runs from a tap into a cup above another cup.{props.CAMERA}", plan


def fullness(share: float) -> str:
    limits = (("full", 0.98), ("nearly full", 0.7), ("half full", 0.4), ("nearly empty", -1.0))
    return next(word for word, above in limits if share > above)


def label_cascade(p: Cascade, states: list[Any]) -> Labels:
    flags = np.array([state[4:] for state in states])
    events = int(flags[:, 0].any()) + int(flags[:, 1].any())
    return props.labels_of(speed=0.1, movers=1, interactions=events, alike=False, soft=True, parts=0)


def backdrop_cascade(p: Cascade, size_px: int) -> Canvas:
    canvas = props.backdrop(p.setting, size_px)
    for x, width, height, base in zip(p.xs, p.widths, HEIGHTS, (UPPER_Y, LOWER_Y), strict=True):
        canvas.box(x, base - height / 2, width + 0.04, height + 0.02, (120, 138, 152))
        canvas.box(x, base - height / 2 - 0.012, width, height + 0.005, (240, 245, 250))
    upper, _ = p.xs
    stand = upper - p.sign * p.widths[0] * 0.3
    canvas.box(stand, (UPPER_Y + LOWER_Y) / 2 + 0.02, 0.05, LOWER_Y - UPPER_Y, METAL)
    canvas.box(upper, 0.05, 0.1, 0.12, METAL)
    return canvas


def draw_cascade(canvas: Canvas, p: Cascade, state: Any) -> None:
    t, upper, lower, runs, spills, floods = state
    color, thick = COLORS[p.color], 0.07 if p.jet == "thick" else 0.042
    for x, width, level, base in zip(p.xs, p.widths, (upper, lower), (UPPER_Y, LOWER_Y), strict=True):
        canvas.box(x, base - level / 2, width, level, color)
        canvas.box(x, base - level + 0.008, width, 0.016, shade(color, 1.4))
    (x0, x1), bright = p.xs, shade(color, 1.15)
    if runs:
        canvas.box(x0, (TAP_Y + UPPER_Y - upper) / 2, thick, UPPER_Y - upper - TAP_Y, bright)
    if spills:
        edge = x0 + p.sign * (p.widths[0] / 2 + 0.035)
        high, low = UPPER_Y - HEIGHTS[0], LOWER_Y - lower
        canvas.box(edge, (high + low) / 2, thick, low - high, bright)
    if floods:
        for edge in (x1 - p.widths[1] / 2 - 0.04, x1 + p.widths[1] / 2 + 0.04):
            canvas.box(edge, LOWER_Y - HEIGHTS[1] / 2, 0.045, HEIGHTS[1], bright)
        canvas.ellipse(x1, LOWER_Y + 0.03, p.widths[1] * 0.9, 0.03, bright)
    canvas.box(x0, 0.12, 0.06, 0.03, shade(METAL, 0.7))
    props.draw_dial(canvas, 0.5 + 0.3 * p.sign, 0.16, p.close_s - t)


KINDS: Final = (
    Kind(
        name="two-cups",
        category=CATEGORY,
        sample=sample_cascade,
        vary=lambda p, rng: nudged(p, rng, {"flow": 0.02 * p.flow, "close_s": 0.05}),
        simulate=simulate_cascade,
        describe=describe_cascade,
        backdrop=backdrop_cascade,
        draw=draw_cascade,
        label=label_cascade,
    ),
)
