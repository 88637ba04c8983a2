"""The selector "consensus": the take that scores best if the truth is like one of the other takes.

Minimum Bayes risk: the benchmark's own measures (where, when and how much moves, and how it looks) between
takes instead of against a reference, which is never opened. Failures of a generator differ from take to take,
its successes resemble each other. Invariant: the scores do not depend on the order of the takes.
Legend: K takes . S moments in time . h, w pixels of the grid on which takes are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.protocols import Selector
from engine.selectors._clips import GREY_LEVELS, shrunk, small_greys, small_size
from engine.types import Attempt, Clip, Scenario, SelectorSettings, Video
from engine.video.files import resample_indices
from engine.video.motion_masks import masks_of

REDUCTION = 4  # the benchmark compares at a quarter of the real clip's size
LONGEST_PX = 240  # beyond, masks of a few pixels do not decide and memory does
LIKE_MSE = 0.002  # of grey from 0 to 1 (11 levels), at which two pictures count as half alike
SOFT_PX = 1.0  # of the grid, by which the edges of motion are softened
PERCENT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """What is compared of a take: all float32 [S, h, w] from 0 to 1."""

    moves: NDArray[np.float32]  # motion masks, their edges softened
    grey: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Consensus:
    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """Mean similarity to the other takes in percent, 100 for a single one. Takes may differ in shape."""
        if len(takes) < 2:
            return [PERCENT] * len(takes)
        size, fps = _grid(scenario.prefix, takes), min(take.fps for take in takes)
        motions = [_motion(take, size, fps) for take in takes]
        similar = np.zeros((len(takes), len(takes)))  # [K, K], symmetric
        for i, one in enumerate(motions):
            for j in range(i):
                similar[i, j] = similar[j, i] = similarity(one, motions[j])
        # summed from the smallest, so that the order of the takes does not show in the last digit
        return [PERCENT * float(row.sum()) / (len(takes) - 1) for row in np.sort(similar, axis=1)]


def build(settings: SelectorSettings) -> Selector:
    return Consensus()


def similarity(a: Motion, b: Motion) -> float:
    """0 to 1: mean of three overlaps of motion and of the likeness of the pictures.

    Spatial (moved at all), weighted (share of time) and spatiotemporal (moment by moment) as the benchmark's,
    but on soft masks: a near miss between two guesses says less than one between a guess and the truth.
    Moments that only one take has count as still and unlike.
    """
    length, longest = min(len(a.moves), len(b.moves)), max(len(a.moves), len(b.moves))
    one, other = _lasting(a.moves, longest), _lasting(b.moves, longest)
    error = float(np.mean((a.grey[:length] - b.grey[:length]) ** 2))
    parts = (
        _overlap(one.max(axis=0), other.max(axis=0)),
        _overlap(one.mean(axis=0), other.mean(axis=0)),
        _overlap(one, other),
        LIKE_MSE / (LIKE_MSE + error) * length / longest,
    )
    return float(np.mean(parts))


def _lasting(moves: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    return np.pad(moves, ((0, length - len(moves)), (0, 0), (0, 0)))


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Sum of minima over sum of maxima: for masks, intersection over union. 1 where both are empty."""
    larger = float(np.maximum(a, b).sum())
    return float(np.minimum(a, b).sum()) / larger if larger > 0 else 1.0


def _grid(prefix: Clip, takes: Sequence[Video]) -> tuple[int, int]:
    """(w, h) on which takes are compared: a quarter of the real clip, or of the smallest take."""
    height, width = min(take.frames.shape[1:3] for take in takes)
    if prefix.width and prefix.height:
        height, width = prefix.height, prefix.width
    return small_size(max(1, width // REDUCTION), max(1, height // REDUCTION), LONGEST_PX)


def _motion(take: Video, size: tuple[int, int], fps: float) -> Motion:
    """Masks are computed at the take's own size and rate, as the benchmark does, then reduced."""
    kept = resample_indices(len(take.frames), take.fps, fps)
    masks = masks_of(take.frames)
    soft = [cv2.GaussianBlur(shrunk(masks[s], size), (0, 0), SOFT_PX) for s in kept]
    return Motion(
        moves=np.stack(soft).astype(np.float32) / np.float32(GREY_LEVELS),
        grey=small_greys(take.frames[kept], size) / np.float32(GREY_LEVELS),
    )
