"""Footage in which physics is broken: one violation by seed, named, with the time at which it can be seen.

Some violations are done by a kind's own simulation (its `breaks`), some to the sequence of its states, some
to the pixels of whatever moves most. The prefix is never touched, and a violation that shows nowhere is drawn
again: a broken clip differs from the true one from its time on, and not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.demo.scenes.base import (
    FAILURE_TYPES,
    FPS,
    NUM_FRAMES,
    SWITCH,
    Rng,
    Scene,
    State,
    frame_time_s,
    render,
)
from engine.demo.scenes.canvas import Image

AMBIGUOUS, EMERGENT, CONFUSION, COMBINATION = FAILURE_TYPES
VIOLATIONS: Final = {
    "passes through": AMBIGUOUS,
    "vanishes": CONFUSION,
    "duplicates": CONFUSION,
    "changes colour": CONFUSION,
    "stops in the air": EMERGENT,
    "time runs back": EMERGENT,
    "wrong restitution": COMBINATION,
    "momentum from nothing": COMBINATION,
    "force turned round": COMBINATION,
}
"""Name -> the failure type that a take with it shows."""
SENTENCES: Final = {
    "passes through": "one thing passes through another",
    "vanishes": "a thing vanishes",
    "duplicates": "a thing appears twice",
    "changes colour": "a thing changes colour",
    "stops in the air": "all stops in the middle of its motion",
    "time runs back": "time runs backwards",
    "wrong restitution": "an impact gives a wrong bounce",
    "momentum from nothing": "a thing starts to move by itself",
    "force turned round": "a force acts the wrong way round",
}
OF_STATES: Final = ("stops in the air", "time runs back")
OF_PIXELS: Final = ("vanishes", "duplicates", "changes colour")
SEEN: Final = 24  # grey levels by which a pixel must differ to count
SEEN_SHARE: Final = 0.002  # of the picture, for a violation to be seen
MOVED_IOU: Final = 0.9  # of two masks of a thing: above it, it does not move, as a dial
OWN_WEIGHT: Final = 3  # a kind's own violations show less often and are the ones that look like physics
TRIES: Final = 24
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    name: str
    failure: str  # of FAILURE_TYPES
    t: float  # seconds after the switch, of the first frame that shows it

    def sentence(self) -> str:
        """As a caption, times on the clock of prompts."""
        return f"Physics is broken: from {round(self.t * 2) / 2:.1f} s {SENTENCES[self.name]}."


def break_scene(scene: Scene, true: Image, view: str, rng: Rng) -> tuple[Image, Violation] | None:
    """The scene's take 1 with a violation, drawn as `true` is: uint8 [NUM_FRAMES, S, S, 3].

    None when none of TRIES violations could be seen; then nothing moves in the answer.
    """
    kind, size_px = scene.kind, true.shape[1]
    own = sorted(kind.breaks) * OWN_WEIGHT
    names = [*own, *(name for name in (*OF_STATES, *OF_PIXELS) if name not in own)]
    for _ in range(TRIES):
        name, start = names[int(rng.integers(len(names)))], int(rng.integers(SWITCH + 2, NUM_FRAMES - 8))
        if name in OF_PIXELS:
            frames = _change_pixels(name, true, kind.backdrop(scene.params, size_px).finish(view), start, rng)
        elif name in kind.breaks:
            params = replace(scene.params, broken=name, broken_s=frame_time_s(start))
            frames = render(kind, params, kind.simulate(params), view, size_px)
        else:
            states = _change_order(name, kind.simulate(scene.params), start)
            frames = render(kind, scene.params, states, view, size_px)
        first = first_difference(frames, true)
        if first is not None and first >= SWITCH:
            return frames, Violation(name=name, failure=VIOLATIONS[name], t=(first - SWITCH) / FPS)
    return None


def first_difference(frames: Image, true: Image) -> int | None:
    """The first frame of which a seen share of pixels differs; a smaller difference in the prefix counts."""
    differs = np.abs(frames.astype(np.int16) - true).max(axis=3) > SEEN
    share = differs.mean(axis=(1, 2))
    if share[:SWITCH].any():
        return 0
    found = np.flatnonzero(share > SEEN_SHARE)
    return None if len(found) == 0 else int(found[0])


def _change_order(name: str, states: Sequence[State], start: int) -> list[State]:
    index = np.arange(NUM_FRAMES)
    late = index > start
    index[late] = start if name == "stops in the air" else np.maximum(2 * start - index[late], 0)
    return [states[int(i)] for i in index]


def _change_pixels(name: str, true: Image, empty: Image, start: int, rng: Rng) -> Image:
    """Change what moves most at frame `start`, wherever it goes from then on; nothing if it stands still."""
    frames = true.copy()
    seen = np.abs(true[start].astype(np.int16) - true[start - 2]).max(axis=2) > SEEN
    where = _component(true[start], empty, seen)
    before = None if where is None else _component(true[start - 3], empty, where)
    if where is None or (before is not None and (where & before).sum() > MOVED_IOU * (where | before).sum()):
        return frames
    shift = (int(rng.integers(-3, 4)) * true.shape[1] // 12, -true.shape[1] // 5)
    for index in range(start, NUM_FRAMES):
        mask = _component(true[index], empty, where)
        if mask is not None:
            where = mask
            frames[index] = _changed(name, true[index], empty, mask, shift)
    return frames


def _component(frame: Image, empty: Image, near: Mask) -> Mask | None:
    """The connected part of the foreground that shares most pixels with `near`; None if none does."""
    front = (np.abs(frame.astype(np.int16) - empty).max(axis=2) > SEEN // 2).astype(np.uint8)
    _, parts = cv2.connectedComponents(front)
    shared = np.bincount(parts[near & (front > 0)], minlength=1)
    shared[0] = 0
    return None if not shared.any() else np.asarray(parts == int(shared.argmax()))


def _changed(name: str, frame: Image, empty: Image, mask: Mask, shift: tuple[int, int]) -> Image:
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    changed = frame.copy()
    if name == "vanishes":
        changed[wide] = empty[wide]
    elif name == "changes colour":
        changed[wide] = np.roll(frame, 1, axis=2)[wide]
    else:
        assert name == "duplicates", name
        moved = np.float32([[1, 0, shift[0]], [0, 1, shift[1]]])  # type: ignore[arg-type]
        size = (frame.shape[1], frame.shape[0])
        cover = cv2.warpAffine(mask.astype(np.uint8), moved, size) > 0  # type: ignore[call-overload]
        changed[cover] = cv2.warpAffine(frame, moved, size)[cover]  # type: ignore[call-overload]
    return changed
