"""The selector "geometry": how orderly a take moves through the features of a frozen image encoder.

Our own reading of an idea published as GeoPhys (arXiv 2606.20707), which we know only second-hand; it is no
re-implementation. Reads prefix and take. Invariant: a take's score does not depend on the other takes.
Legend: T frames . P patches . D feature size . x_t [P * D] the features of frame t as one vector,
v_t = x_t+1 - x_t its velocity; the one from the last prefix frame to the first of the take is the switch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from engine.protocols import Selector
from engine.selectors._clips import beside_prefix
from engine.selectors._encoders import Features, ImageEncoder, load_image_encoder
from engine.selectors._threads import numpy_on_one_thread
from engine.types import Attempt, Scenario, SelectorSettings, Video

NOISE_SHARE = 0.02  # of the prefix's mean |v|^2: less is noise, so that a still take is not an orderly one
LEAST_NOISE = 1e-9
BEND_RAD = 0.1  # differences of curvature below this count as none
USUAL_JUMP = 3.7  # in accelerations of the prefix: nine in ten tuning takes jump less at the switch
LEAST_FRAMES = 3  # of prefix and of take, to have a curvature

Vectors = NDArray[np.float64]
"""[T, P * D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Five positive quantities of which less is better. e is NOISE_SHARE of the prefix's mean |v|^2.

    `bend`: BEND_RAD + |k(take) - k(prefix)|, where k = arccos(sum v_t . v_t+1 / sum |v_t| |v_t+1|) is the
    angle between successive velocities, weighted by speed: things turn as much as they did before.

    `jump`: 1 + j / USUAL_JUMP, where j = |switch - last v of the prefix| / (mean |v_t+1 - v_t| of the prefix
    + sqrt e): the take goes on where the prefix ended, and as fast.

    `dimension`: participation ratio (sum l + n e)^2 / sum (l + e)^2 / n of the n eigenvalues l of the take's
    x_t - mean x: the share of directions that its path uses. A few bodies use few, boiling texture all.

    `deformation`: (mean |q_t+1 - q_t| + sqrt e / 10) / (mean |v_t| + sqrt e / 10), where q_t are the singular
    values of the patches of frame t about their mean. Moving patches about changes none of them, so this is
    the share of change that is not motion: things that grow, melt away or turn into others.

    `novelty`: (energy of the take's velocities outside the span of the prefix's + n e) / (all of it + n e).
    """

    bend: float
    jump: float
    dimension: float
    deformation: float
    novelty: float


# One unit of each logarithm is its spread among takes of one scene (mean over 71 tuning scenes), save for the
# jump: takes of one generator jump alike, and only a break should count.
UNITS = Statistics(bend=0.05, jump=0.01, dimension=0.02, deformation=0.02, novelty=0.003)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    encoder: ImageEncoder

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """Minus the mean logarithm of the statistics, each in its unit; -inf where a clip is too short."""
        features = self.encoder.features
        return [
            orderliness(prefix, features(take.frames))
            for prefix, take in beside_prefix(scenario.prefix, takes, features)
        ]


def build(settings: SelectorSettings) -> Selector:
    numpy_on_one_thread()
    return Geometry(encoder=load_image_encoder(settings))


def orderliness(prefix: Features, take: Features) -> float:
    """The score of features [s, P, D] and [T - s, P, D]."""
    if min(len(prefix), len(take)) < LEAST_FRAMES:
        return -math.inf
    found = astuple(statistics(prefix, take))
    return -float(np.mean([math.log(x) / unit for x, unit in zip(found, astuple(UNITS), strict=True)]))


def statistics(prefix: Features, take: Features) -> Statistics:
    """Of features [T, P, D] of the prefix and of the take; T is LEAST_FRAMES or more in both."""
    before, path = _path(prefix), _path(take)
    old, new = np.diff(before, axis=0), np.diff(path, axis=0)
    noise = max(NOISE_SHARE * float((old**2).sum(axis=1).mean()), LEAST_NOISE)
    return Statistics(
        bend=BEND_RAD + abs(_curvature(new) - _curvature(old)),
        jump=1.0 + _jump(old, path[0] - before[-1], noise) / USUAL_JUMP,
        dimension=_participation(path - path.mean(axis=0), noise),
        deformation=_deformation(take, new, noise),
        novelty=_novelty(old, new, noise),
    )


def _path(features: Features) -> Vectors:
    return features.reshape(len(features), -1).astype(np.float64)


def _jump(old: Vectors, switch: Vectors, noise: float) -> float:
    usual = float(np.linalg.norm(np.diff(old, axis=0), axis=1).mean())
    return float(np.linalg.norm(switch - old[-1])) / (usual + math.sqrt(noise))


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


def _deformation(take: Features, velocities: Vectors, noise: float) -> float:
    frames = take.astype(np.float64)
    spectra = np.linalg.svd(frames - frames.mean(axis=1, keepdims=True), compute_uv=False)  # [T, min(P, D)]
    change = float(np.linalg.norm(np.diff(spectra, axis=0), axis=1).mean())
    speed = float(np.linalg.norm(velocities, axis=1).mean())
    still = math.sqrt(noise) / 10
    return (change + still) / (speed + still)


def _novelty(old: Vectors, new: Vectors, noise: float) -> float:
    basis = np.linalg.svd(old, full_matrices=False)[2]
    total = float((new**2).sum()) + len(new) * noise
    return (total - float(((new @ basis.T) ** 2).sum())) / total
