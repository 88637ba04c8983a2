"""Means with bootstrap intervals, resampling scenes: the views of one scene are not independent cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 10_000


def mean_ci95(values: Sequence[float], scenes: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """{"mean": m, "ci95": [low, high]} of `values`; percentile bootstrap over `scenes` (one name per value).

    For a paired comparison pass the differences. At least one value.
    """
    assert len(values) == len(scenes) >= 1, f"{len(values)} values, {len(scenes)} scenes"
    names, place = np.unique(np.asarray(scenes), return_inverse=True)
    sums = np.bincount(place, weights=np.asarray(values, np.float64))  # [scenes]
    counts = np.bincount(place)
    picks = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {"mean": float(np.mean(values)), "ci95": [float(low), float(high)]}
