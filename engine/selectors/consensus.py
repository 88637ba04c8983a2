"""The selector "consensus": the take that the other takes agree with (the medoid).

Looks only at pixels of the takes, never at critiques or a reference. Failures of a generator differ from take
to take, its successes resemble each other. Invariant: the scores do not depend on the order of the takes.
Legend: K takes · S sampled frames · P side of a downsampled frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.protocols import Selector
from engine.types import Attempt, Scenario, Video

NUM_SAMPLES = 16  # S
SIDE_PX = 32  # P
MOTION_WEIGHT = 2.0  # where and when things move counts more than how they look


@dataclass(frozen=True, slots=True)
class Consensus:
    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """Minus the mean distance to the other takes; 0.0 for a single take. Takes may differ in shape."""
        if len(takes) < 2:
            return [0.0] * len(takes)
        features = np.stack([_features(take) for take in takes])  # [K, 2*S*P*P]
        distances = np.linalg.norm(features[:, None] - features[None], axis=-1)  # [K, K]
        mean = distances.sum(axis=1) / (len(takes) - 1)
        return [-float(distance) for distance in mean]


def build() -> Selector:
    return Consensus()


def _features(take: Video) -> NDArray[np.float64]:
    """Grey frames and motion energy [2*S*P*P], scaled so that a distance is a root mean square.

    Motion energy of sample i is the mean absolute difference of neighbouring frames from sample i to i+1, so
    that motion counts that no sampled frame shows.
    """
    grey = np.stack([_small_grey(frame) for frame in take.frames])  # [T, P, P]
    change = np.abs(np.diff(grey, axis=0, append=grey[-1:]))  # [T, P, P]
    samples = np.linspace(0, len(grey) - 1, NUM_SAMPLES).round().astype(int)
    ends = np.append(samples[1:], len(grey))
    energy = np.stack([change[i : max(j, i + 1)].mean(axis=0) for i, j in zip(samples, ends, strict=True)])
    features: NDArray[np.float64] = np.concatenate([grey[samples].ravel(), MOTION_WEIGHT * energy.ravel()])
    return features / float(np.sqrt(NUM_SAMPLES * SIDE_PX**2))


def _small_grey(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[H, W, 3] uint8 -> [P, P] from 0 to 1."""
    small = cv2.resize(frame, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    grey: NDArray[np.float64] = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return grey / 255.0
