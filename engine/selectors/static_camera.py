"""The selector "static_camera": how steady a take is where nothing should move.

Drift, flicker and the jump at the switch, measured on the background alone: what moves neither in the prefix
nor in the take. All parts are in grey levels, the unit in which the benchmark sees motion.
Invariant: a take's score does not depend on the other takes.
Legend: T frames . H, W pixels of the small picture . B background pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.protocols import Selector
from engine.selectors._clips import beside_prefix, shrunk, small_greys, small_size
from engine.selectors._threads import numpy_on_one_thread
from engine.types import Attempt, Frames, Scenario, SelectorSettings, Video
from engine.video.motion_masks import THRESHOLD, masks_of

LONGEST_PX = 192  # of the picture that is measured
MARGIN = 0.02  # of the longer side: masks miss the soft edge of what moves
LEAST_BACKGROUND = 0.1  # of the picture; with less, the take's own masks say nothing
PYRAMID = (4, 2, 1)  # scales of the search for the shift, so that a drift of several pixels is found
STEADY_LEVELS = 1e-3  # regularisation: a background without edges has no drift

Greys = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsteadiness:
    """Each in grey levels, mean over the background."""

    drift: float  # what the shift against the last prefix frame changes, mean over the take
    flicker: float  # change from frame to frame that no shift explains
    jump: float  # of the same kind from the last prefix frame to the first one of the take

    @property
    def total(self) -> float:
        return self.drift + self.flicker + self.jump


@dataclass(frozen=True, slots=True)
class StaticCamera:
    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """Minus the grey levels by which the background changes; 0.0 is a still background."""
        pairs = beside_prefix(scenario.prefix, takes, np.asarray)
        return [-unsteadiness(prefix, take.frames).total for prefix, take in pairs]


def build(settings: SelectorSettings) -> Selector:
    numpy_on_one_thread()
    return StaticCamera()


def unsteadiness(prefix: Frames, take: Frames) -> Unsteadiness:
    """Drift, flicker and jump of a take [T, H, W, 3] after a prefix of the same size."""
    size = small_size(take.shape[2], take.shape[1], LONGEST_PX)
    background = background_of(prefix, take, size)
    still, moving = small_greys(prefix[-1:], size)[0], small_greys(take, size)
    shifts = [background_shift(still, frame, background) for frame in moving]
    across, down = _gradients(still)
    drift = [float(np.abs(across * x + down * y)[background].mean()) for x, y in shifts]
    rests = [still] + [_moved_back(frame, *shift) for frame, shift in zip(moving, shifts, strict=True)]
    changes = [float(np.abs(b - a)[background].mean()) for a, b in pairwise(rests)]
    return Unsteadiness(
        drift=float(np.mean(drift)),
        flicker=float(np.mean(changes[1:])) if len(changes) > 1 else 0.0,
        jump=changes[0],
    )


def background_of(prefix: Frames, take: Frames, size: tuple[int, int]) -> Mask:
    """What moves neither in the prefix nor in the take, [H, W]; never less than LEAST_BACKGROUND.

    Where a take moves everywhere (a camera that turns), the prefix's masks decide alone; where the prefix
    does too, the whole picture counts.
    """
    own, other = _moving(prefix, size) | _changing(prefix, size), _moving(take, size)
    for region in (own | other, own):
        if 1.0 - region.mean() >= LEAST_BACKGROUND:
            return np.asarray(~region, np.bool_)
    return np.ones_like(own)


def background_shift(still: Greys, frame: Greys, background: Mask) -> tuple[float, float]:
    """By how many pixels (right, down) the background of `frame` lies away from `still`, sub-pixel.

    Least squares over the background, coarse to fine, of shift, contrast and brightness together (Lucas and
    Kanade 1981), so that a change of light is not taken for a shift.
    """
    x = y = 0.0
    for scale in PYRAMID:
        size = (still.shape[1] // scale, still.shape[0] // scale)
        if min(size) < 8:
            continue
        a, b = (cv2.resize(g, size, interpolation=cv2.INTER_AREA) for g in (still, frame))
        keep = cv2.resize(background.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
        if not keep.any():
            continue
        for _ in range(3):
            step = _shift_step(a, _moved_back(b, x / scale, y / scale), keep)
            x, y = x + step[0] * scale, y + step[1] * scale
    return x, y


def _shift_step(still: Greys, frame: Greys, keep: Mask) -> tuple[float, float]:
    across, down = _gradients(still)
    columns = np.stack([across[keep], down[keep], still[keep], np.ones(int(keep.sum()))], axis=1)  # [B, 4]
    columns = columns.astype(np.float64)
    normal = columns.T @ columns / len(columns) + STEADY_LEVELS * np.eye(4)
    rest = (still - frame)[keep].astype(
        np.float64
    )  # frame(p) = still(p - shift), so still - frame = shift * grad
    solution = np.linalg.solve(normal, columns.T @ rest / len(columns))
    return float(np.clip(solution[0], -2, 2)), float(np.clip(solution[1], -2, 2))


def _gradients(grey: Greys) -> tuple[Greys, Greys]:
    """Change of grey levels a pixel to the right and downwards."""
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    return np.asarray(across, np.float32), np.asarray(down, np.float32)


def _moved_back(frame: Greys, x: float, y: float) -> Greys:
    """`frame` shifted by (-x, -y) pixels, edges repeated."""
    warp = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
    size = (frame.shape[1], frame.shape[0])
    moved = cv2.warpAffine(frame, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def _changing(frames: Frames, size: tuple[int, int]) -> Mask:
    """Where grey levels change over the clip, be it too slowly for the masks (a dye that spreads), [H, W]."""
    greys = small_greys(frames, size)
    return _grown(np.ptp(greys, axis=0) > THRESHOLD)


def _moving(frames: Frames, size: tuple[int, int]) -> Mask:
    """Where the benchmark's masks are ever on, with a margin, [H, W]."""
    return _grown(shrunk(masks_of(frames).max(axis=0), size) > 0)


def _grown(region: Mask) -> Mask:
    margin = max(1, round(MARGIN * max(region.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    return np.asarray(cv2.dilate(region.astype(np.uint8), kernel) > 0, np.bool_)
