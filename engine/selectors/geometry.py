"""The selector "geometry": how orderly a take moves through the features of a frozen image encoder.

Our own reading of an idea published as GeoPhys (arXiv 2606.20707), known to us only second-hand: it is no
re-implementation. Invariant: a take's score does not depend on the other takes.
Legend: T frames, s of them in the prefix · P patches · D feature size · x_t [P * D] features of frame t,
v_t = x_t+1 - x_t its velocity (the one across the switch counts to the take).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from engine.protocols import Selector
from engine.selectors._clips import prefix_like
from engine.selectors._encoders import Features, ImageEncoder, load_image_encoder
from engine.types import Attempt, Scenario, SelectorSettings, Video

NOISE_SHARE = (
    0.02  # of the prefix's motion energy: less than that is noise, so that a still take is not orderly
)
LEAST_NOISE = 1e-9
BEND_RAD = 0.1  # differences of curvature below this count as none
LEAST_FRAMES = 3  # of prefix and of take, to have a curvature

Vectors = NDArray[np.float64]
"""[T, P * D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Five quantities of which less is better; e is the noise energy, NOISE_SHARE of the mean |v_t|^2 before.

    `bend`: BEND_RAD + |k(take) - k(prefix)| with k = arccos(sum v_t . v_t+1 / sum |v_t| |v_t+1|), the angle
    between successive velocities, weighted by speed. Things turn as much as before the switch.

    `directions`: participation ratio (sum l + n e)^2 / sum (l + e)^2 / n of the n eigenvalues l of the take's
    velocities: the share of directions that are in use. Bodies that move leave few, boiling texture all.

    `dimension`: the same of all positions x_t - mean(x), prefix and take together: one path, not a wander.

    `deformation`: (mean |q_t+1 - q_t| + sqrt e) / (mean |v_t| + sqrt e), where q_t are the singular values of
    the patches of frame t about their mean. Moving patches about changes none of them, so this is the share
    of change that is not motion: things that grow, melt away or turn into others.

    `novelty`: (energy of the take's velocities outside the span of the prefix's + n e) / (all of it + n e).
    """

    bend: float
    directions: float
    dimension: float
    deformation: float
    novelty: float


# One unit of each logarithm: its spread among takes of one tuning scene, mean over 71 of these .
UNITS = Statistics(bend=0.045, directions=0.020, dimension=0.014, deformation=0.010, novelty=0.003)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    encoder: ImageEncoder

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """Minus the mean logarithm of the statistics, each in its unit; -inf where a clip is too short."""
        scores = []
        for take in takes:
            prefix = self.encoder.features(prefix_like(scenario.prefix, take))
            scores.append(orderliness(prefix, self.encoder.features(take.frames)))
        return scores


def build(settings: SelectorSettings) -> Selector:
    return Geometry(encoder=load_image_encoder(settings))


def orderliness(prefix: Features, take: Features) -> float:
    """The score of features [s, P, D] and [T - s, P, D]."""
    if min(len(prefix), len(take)) < LEAST_FRAMES:
        return -math.inf
    found = astuple(statistics(prefix, take))
    return -float(np.mean([math.log(x) / unit for x, unit in zip(found, astuple(UNITS), strict=True)]))


def statistics(prefix: Features, take: Features) -> Statistics:
    both = np.concatenate([prefix, take]).astype(np.float64)
    path = both.reshape(len(both), -1)
    velocities = np.diff(path, axis=0)
    before, after = velocities[: len(prefix) - 1], velocities[len(prefix) - 1 :]
    noise = max(NOISE_SHARE * float((before**2).sum(axis=1).mean()), LEAST_NOISE)
    return Statistics(
        bend=BEND_RAD + abs(_curvature(after) - _curvature(before)),
        directions=_participation(after, noise),
        dimension=_participation(path - path.mean(axis=0), noise),
        deformation=_deformation(both[len(prefix) - 1 :], after, noise),
        novelty=_novelty(before, after, noise),
    )


def _curvature(velocities: Vectors) -> float:
    """Angle between successive velocities in radians; that of noise, a right angle, where nothing moves."""
    speeds = np.linalg.norm(velocities, axis=1)
    cosine = (velocities[1:] * velocities[:-1]).sum() / ((speeds[1:] * speeds[:-1]).sum() + LEAST_NOISE)
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)))


def _participation(vectors: Vectors, noise: float) -> float:
    """From 1 / n (all in one direction) to 1 (equal energy in n directions), n the number of vectors."""
    gram = vectors @ vectors.T  # has the eigenvalues of the covariance, at T x T
    count, total = len(gram), float(np.trace(gram))
    squares = float((gram**2).sum()) + 2 * noise * total + count * noise**2
    return (total + count * noise) ** 2 / squares / count


def _deformation(frames: Vectors, velocities: Vectors, noise: float) -> float:
    """`frames` [T, P, D] begins with the last one of the prefix, so it has one more than `velocities`."""
    spectra = np.linalg.svd(frames - frames.mean(axis=1, keepdims=True), compute_uv=False)  # [T, min(P, D)]
    change = float(np.linalg.norm(np.diff(spectra, axis=0), axis=1).mean())
    speed = float(np.linalg.norm(velocities, axis=1).mean())
    return (change + math.sqrt(noise)) / (speed + math.sqrt(noise))


def _novelty(before: Vectors, after: Vectors, noise: float) -> float:
    basis = np.linalg.svd(before, full_matrices=False)[2]
    total = float((after**2).sum()) + len(after) * noise
    return (total - float(((after @ basis.T) ** 2).sum())) / total
