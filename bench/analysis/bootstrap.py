"""Figures with bootstrap intervals, resampling scenes: the views of one scene are not independent cases.

Knows no scores. Comparisons are paired: both sides see the same resamples of the scenes.
Legend: R resamples . S scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
Floats = NDArray[np.float64]


def mean_ci95(values: Sequence[float], scenes: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """{"mean": m, "ci95": [low, high]} of `values`; percentile bootstrap over `scenes` (one name per value).

    For a paired comparison pass the differences. At least one value.
    """
    sums, counts = _by_scene(values, scenes)
    weights = _weights(len(sums), seed)
    return {"mean": float(np.mean(values)), "ci95": interval(weights @ sums / (weights @ counts))}


def ratio_ci95(
    numerators: Sequence[float], denominators: Sequence[float], scenes: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """{"value": v, "ci95": [low, high]}: the sum of `numerators` over the sum of `denominators`, both paired.

    Denominators are 0 or more. Null where their sum is 0; resamples in which it is are left out.
    """
    assert min(denominators) >= 0, f"denominator {min(denominators)}"
    above, _ = _by_scene(numerators, scenes)
    below, _ = _by_scene(denominators, scenes)
    total = float(np.sum(denominators))
    if total == 0:
        return {"value": None, "ci95": None}
    weights = _weights(len(above), seed)
    dividends, divisors = weights @ above, weights @ below
    usable = divisors > 0
    return {
        "value": float(np.sum(numerators)) / total,
        "ci95": interval(dividends[usable] / divisors[usable]),
    }


def statistic_ci95(statistic: Callable[[Floats], Floats], num_scenes: int, seed: int = 0) -> dict[str, Any]:
    """{"mean": m, "ci95": [low, high]} of a figure that is no mean, such as a ratio of dataset means.

    `statistic` takes weights [R, S], how often each of the S scenes counts, and returns R values; NaN where
    it does not exist. Null where it does not for all scenes; resamples in which it does not are left out.
    """
    (whole,) = statistic(np.ones((1, num_scenes)))
    if not np.isfinite(whole):
        return {"mean": None, "ci95": None}
    values = statistic(_weights(num_scenes, seed))
    return {"mean": float(whole), "ci95": interval(values[np.isfinite(values)])}


def balanced_ci95(
    values: Sequence[float], kinds: Sequence[str], scenes: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """{"mean": m, "ci95": [low, high]} of the mean over `kinds` of the mean of their values: of hits, the
    balanced accuracy. One kind and scene a value; at least one value.

    For a paired comparison pass the differences. Resamples that lack a kind are left out.
    """
    given, (_, place) = np.asarray(values, np.float64), np.unique(np.asarray(scenes), return_inverse=True)
    num_scenes = int(place.max()) + 1
    tables = []
    for kind in sorted(set(kinds)):
        mine = np.array([other == kind for other in kinds])
        sums = np.bincount(place[mine], weights=given[mine], minlength=num_scenes)
        tables.append((sums, np.bincount(place[mine], minlength=num_scenes).astype(np.float64)))

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            shares = [weights @ sums / (weights @ counts) for sums, counts in tables]
        return np.asarray(np.mean(shares, axis=0), np.float64)

    return statistic_ci95(statistic, num_scenes, seed)


def interval(values: Floats) -> list[float]:
    """The central 95 % of resampled figures."""
    low, high = np.percentile(values, (2.5, 97.5))
    return [float(low), float(high)]


@lru_cache(maxsize=4)
def _weights(num_scenes: int, seed: int) -> Floats:
    """How often each resample draws each scene [R, S]; one table of figures asks for the same ones often."""
    picks = np.random.default_rng(seed).integers(num_scenes, size=(RESAMPLES, num_scenes))
    weights = np.zeros((RESAMPLES, num_scenes))
    np.add.at(weights, (np.arange(RESAMPLES)[:, None], picks), 1.0)
    weights.flags.writeable = False
    return weights


def _by_scene(values: Sequence[float], scenes: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and number of the values of each scene, both [S], scenes by name."""
    assert len(values) == len(scenes) >= 1, f"{len(values)} values, {len(scenes)} scenes"
    _, place = np.unique(np.asarray(scenes), return_inverse=True)
    sums = np.bincount(place, weights=np.asarray(values, np.float64)).astype(np.float64)
    return sums, np.bincount(place).astype(np.float64)
