"""What every kind of simulated scene promises, checked on a few seeds; the scene modules' tests use it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from engine.demo.scenes.base import NUM_FRAMES, SWITCH, Kind, Scene

SEEDS = range(6)
DIRECTIONS = {"left", "right", "up", "down", "clockwise", "counterclockwise", "outward", "inward"}
SPEEDS = {"slow", "medium", "fast"}


def scene(kind: Kind, seed: int) -> Scene:
    return Scene(kind, seed, kind.sample(np.random.default_rng(seed)))


def sampled(kind: Kind, count: int = 40) -> list[Any]:
    """Parameters of `count` seeds, for assertions that need no pictures."""
    return [kind.sample(np.random.default_rng(seed)) for seed in range(count)]


def check_takes(kind: Kind) -> None:
    """Reproducible bit by bit; take 2 is another take of the same; change before and after the switch."""
    moving = np.zeros(2, int)
    for seed in SEEDS:
        one, two = scene(kind, seed).render(1, "center", 32), scene(kind, seed).render(2, "center", 32)
        assert one.shape == (NUM_FRAMES, 32, 32, 3) and one.dtype == np.uint8
        assert np.array_equal(one, scene(kind, seed).render(1, "center", 32))
        assert not np.array_equal(one, two)
        assert np.abs(one.astype(int) - two).mean() < 3.0
        change = np.abs(np.diff(one.astype(int), axis=0)).max(axis=(1, 2, 3)) > 6
        answer = np.abs(one[SWITCH].astype(int) - one[-1]).max()
        moving += (change[: SWITCH - 1].sum() >= 10, answer > 40)
    assert (moving >= len(SEEDS) - 1).all(), moving


def check_plans(kind: Kind, spoilers: Iterable[str], count: int = 40) -> None:
    """Ordered, compact plans from a small vocabulary, and a brief that gives nothing away."""
    for params in sampled(kind, count):
        brief, plan = kind.describe(params, kind.simulate(params))
        times = [event.t for event in plan.events]
        assert 1 <= len(times) <= 4 and times == sorted(times) and times[0] >= 0.0 and times[-1] <= 5.0
        assert len(plan.motion) <= 2 and len(plan.rest) <= 3
        assert all(rest.t is None or 0.0 <= rest.t <= 5.0 for rest in plan.rest)
        assert {m.direction for m in plan.motion} <= DIRECTIONS and {m.speed for m in plan.motion} <= SPEEDS
        texts = [word for entry in plan.objects for word in (entry.name, entry.trait)] + list(plan.still)
        texts += (
            [m.object for m in plan.motion] + [r.object for r in plan.rest] + [e.what for e in plan.events]
        )
        assert all(re.fullmatch(r"[a-z ]+", text) for text in texts), texts
        assert not (DIRECTIONS | SPEEDS | set(spoilers)) & set(re.findall(r"[a-z]+", brief.lower()))
        assert brief.endswith(" Static shot with no camera movement.")


def check_variety(kind: Kind, count: int = 60) -> None:
    """Directions or speeds differ between seeds, and so does the end of the motion."""
    plans = [scene(kind, seed).truth for seed in range(count)]
    assert len({tuple((m.direction, m.speed) for m in plan.motion) for plan in plans}) >= 3
    assert len({(plan.rest[0].t, plan.events[-1].what) for plan in plans}) >= 5
