"""Bodies on a line: balls on a table, carts on a rail. Impacts by Newton's law of restitution.

Between impacts a constant deceleration acts against the motion, and whatever forces the caller gives.
Semi-implicit Euler at 128 Hz. Positions are centres in world units; contacts keep who met whom, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH

SUBSTEPS: Final = 16  # per frame: 128 Hz
STEP_S: Final = 1.0 / (FPS * SUBSTEPS)
LEFT_WALL: Final = -1
RIGHT_WALL: Final = -2
REFRACTORY_S: Final = 0.2  # within it, the same two meet only once

Forces = Callable[[list[float]], list[float]]
"""Accelerations of all bodies from their positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    x: float  # at the start of the prefix
    v: float
    mass: float
    half: float  # width
    bounce: float  # of two bodies the smaller counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """x [NUM_FRAMES, n]; contacts (seconds after the switch, body, body or wall) in order."""

    x: np.ndarray
    contacts: tuple[tuple[float, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    slowing: float  # world units/s^2
    walls: tuple[float | None, float | None]  # faces of the bumpers, left and right
    wall_bounce: float
    meet: bool = True  # False: bodies pass through each other
    kick: tuple[float, int, float] | None = None  # (seconds, body, velocity) out of nothing


def run(bodies: Sequence[Body], rail: Rail, forces: Forces | None = None) -> Motion:
    """Bodies from left to right over prefix and answer."""
    x, v = [b.x for b in bodies], [b.v for b in bodies]
    frames = np.empty((NUM_FRAMES, len(bodies)))
    contacts: list[tuple[float, int, int]] = []
    for frame in range(NUM_FRAMES):
        frames[frame] = x
        for step in range(SUBSTEPS):
            t = (frame - SWITCH) / FPS + step * STEP_S
            if rail.kick is not None and t <= rail.kick[0] < t + STEP_S:
                v[rail.kick[1]] = rail.kick[2]
            pushed = forces(x) if forces is not None else [0.0] * len(x)
            for i, force in enumerate(pushed):
                v[i] += force * STEP_S
                v[i] -= float(np.sign(v[i])) * min(abs(v[i]), rail.slowing * STEP_S)
                x[i] += v[i] * STEP_S
            if rail.meet:
                contacts += [(t, i, i + 1) for i in range(len(x) - 1) if _impact(bodies, x, v, i)]
            contacts += [(t, i, wall) for i in range(len(x)) for wall in _bumps(bodies[i], x, v, i, rail)]
    return Motion(x=frames, contacts=_distinct(contacts))


def _impact(bodies: Sequence[Body], x: list[float], v: list[float], i: int) -> bool:
    """Resolve body i against i + 1 where they overlap and close in; say whether they did."""
    one, two = bodies[i], bodies[i + 1]
    overlap = one.half + two.half - (x[i + 1] - x[i])
    closing = v[i] - v[i + 1]
    if overlap <= 0.0:
        return False
    total = one.mass + two.mass
    x[i] -= overlap * two.mass / total
    x[i + 1] += overlap * one.mass / total
    if closing <= 0.0:
        return False
    common = (one.mass * v[i] + two.mass * v[i + 1]) / total
    parting = min(one.bounce, two.bounce) * closing / total
    v[i], v[i + 1] = common - two.mass * parting, common + one.mass * parting
    return closing > 0.02


def _bumps(body: Body, x: list[float], v: list[float], i: int, rail: Rail) -> list[int]:
    left, right = rail.walls
    if left is not None and x[i] - body.half < left and v[i] < 0.0:
        x[i], v[i] = left + body.half, -v[i] * rail.wall_bounce
        return [LEFT_WALL]
    if right is not None and x[i] + body.half > right and v[i] > 0.0:
        x[i], v[i] = right - body.half, -v[i] * rail.wall_bounce
        return [RIGHT_WALL]
    return []


def _distinct(contacts: Sequence[tuple[float, int, int]]) -> tuple[tuple[float, int, int], ...]:
    """The first of every run of contacts of the same two: what rests on each other meets at each step."""
    kept: list[tuple[float, int, int]] = []
    last: dict[tuple[int, int], float] = {}
    for t, a, b in contacts:
        if t - last.get((a, b), -1e9) > REFRACTORY_S:
            kept.append((t, a, b))
        last[a, b] = t
    return tuple(kept)
