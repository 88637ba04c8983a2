"""Every number that the official evaluator prints or writes for one CSV, from the cases in memory.

Reads no file. Names and scales are the official ones: fractions of 1, but `final_score_origround` in percent.
Where a scenario lacks a view, its means are over the views that it has. A number that the official tool would
give as NaN or infinity is None.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.scoring.view_metrics import (
    Case,
    in_official_order,
    original_score,
    pooled,
    verified_means,
)

_VARIANCES = {
    "spatiotemporal": "variance_spatiotemporal_iou",
    "spatial": "variance_spatial",
    "weighted_spatial": "variance_weighted_spatial",
    "mse": "variance_mse",
}
_FINAL = ("final_score_raw", "final_score_stable", "final_score_orig")
NAMES = (
    *(f"score_{metric}" for metric in _VARIANCES),
    *_FINAL,
    *_VARIANCES.values(),
    "final_score_view",
    *(f"score_{metric}_view" for metric in _VARIANCES),
    "final_score_origround",
)


def official_aggregates(cases: Sequence[Case]) -> dict[str, float | None]:
    """All of `NAMES`. `final_score_view` is the Verified score, `final_score_origround` the original one."""
    if not cases:
        return dict.fromkeys(NAMES)
    ordered = in_official_order(cases)
    found = {name: pooled(ordered, lambda metrics: metrics.take1, name) for name in _VARIANCES}
    variance = {name: pooled(ordered, lambda metrics: metrics.variance, name) for name in _VARIANCES}
    with np.errstate(divide="ignore", invalid="ignore"):
        score = {name: found[name] / variance[name] for name in _VARIANCES if name != "mse"}
        score["mse"] = found["mse"] - variance["mse"]
        raw = _combined(score)
        capped = {name: np.clip(value, 0.0, 1.0) for name, value in score.items()}
        stable = np.clip(_combined(capped), 0.0, 1.0)
    verified = verified_means(cases)
    numbers = {
        **{f"score_{name}": score[name] for name in _VARIANCES},
        **dict(zip(_FINAL, (raw, stable, np.clip(raw, 0.0, 1.0)), strict=True)),
        **{column: variance[name] for name, column in _VARIANCES.items()},
        "final_score_view": verified["mean"],
        **{f"score_{name}_view": verified[name] for name in _VARIANCES},
    }
    plain = {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}
    return {**plain, "final_score_origround": original_score(cases)}


def _combined(score: dict[str, np.float64]) -> np.float64:
    return (score["spatiotemporal"] + score["spatial"] + score["weighted_spatial"]) / 3 - score["mse"]
