"""How well predictions tell takes of one scenario apart: rank correlation, AUC, and what choosing gains.

Knows no states. Figures are means over scenarios with intervals over scenes; a control goes the same way with
scores that were permuted within their scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.bootstrap import mean_ci95, ratio_ci95
from bench.quality.selector_figures import spearman

Floats = NDArray[np.float64]
Measure = Callable[[Floats, Floats], float | None]
LEAST_TAKES = 3
"""Of a group whose ranks are correlated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Takes that are compared with each other, by their rows."""

    scene: str
    rows: NDArray[np.int64]


def groups_of(keys: Sequence[object], scenes: Sequence[str]) -> list[Group]:
    """Takes of equal keys, of two or more."""
    rows: dict[object, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return [Group(scene=scenes[found[0]], rows=np.array(found)) for found in rows.values() if len(found) > 1]


def rank_correlation(predicted: Floats, scores: Floats) -> float | None:
    """Spearman's rho; None of fewer than LEAST_TAKES or where a side is constant."""
    return spearman(predicted, scores) if len(scores) >= LEAST_TAKES else None


def auc(predicted: Floats, scores: Floats) -> float | None:
    """Share of the pairs of a take above the median score and one below it that are in order, ties by half;
    None where there is no such pair."""
    middle = float(np.median(scores))
    above, below = predicted[scores > middle], predicted[scores < middle]
    if not len(above) or not len(below):
        return None
    order = np.sign(above[:, None] - below[None, :])
    return float((order + 1).mean() / 2)


def figure(measure: Measure, predicted: Floats, labels: Floats, groups: Sequence[Group]) -> dict[str, Any]:
    """Of the true scores (column 0 of both, [N, 1 + P]) with its interval, and of the permuted ones: their
    mean, the 95th percentile, and how often one reached the true figure (p, of (1 + times) / (1 + P))."""
    found, scenes = _by_group(measure, predicted[:, 0], labels[:, 0], groups)
    if not found:
        return {"mean": None, "ci95": None, "n": 0, "control": None}
    whole = {**mean_ci95(found, scenes), "n": len(found)}
    controls = []
    for column in range(1, labels.shape[1]):
        values, _ = _by_group(measure, predicted[:, column], labels[:, column], groups)
        controls.append(float(np.mean(values)) if values else np.nan)
    usable = np.array([value for value in controls if np.isfinite(value)])
    if not len(usable):
        return {**whole, "control": None}
    return {
        **whole,
        "control": {
            "mean": float(usable.mean()),
            "p95": float(np.percentile(usable, 95)),
            "p": (1 + int((usable >= whole["mean"]).sum())) / (1 + len(usable)),
        },
    }


def share_of_oracle(predicted: Floats, scores: Floats, groups: Sequence[Group]) -> dict[str, Any]:
    """(chosen - random) / (oracle - random), of the sums over scenarios, and the points of each."""
    chosen = [float(scores[g.rows[int(predicted[g.rows].argmax())]]) for g in groups]
    mean, best = ([float(how(scores[g.rows])) for g in groups] for how in (np.mean, np.max))
    scenes = [group.scene for group in groups]
    gains = [a - b for a, b in zip(chosen, mean, strict=True)]
    return {
        **ratio_ci95(gains, [a - b for a, b in zip(best, mean, strict=True)], scenes),
        "points": {"chosen_minus_random": mean_ci95(gains, scenes), "oracle": float(np.mean(best))},
    }


def _by_group(
    measure: Measure, predicted: Floats, scores: Floats, groups: Sequence[Group]
) -> tuple[list[float], list[str]]:
    found, scenes = [], []
    for group in groups:
        value = measure(predicted[group.rows], scores[group.rows])
        if value is not None:
            found.append(value)
            scenes.append(group.scene)
    return found, scenes
