"""A scored case as a few numbers: what scores.json keeps of it, and both dataset scores recomputed from that.

Knows no files and no frames. A series is kept as the mean of its rounded values and their number, which is
all that either score uses. Legend: R resamples . S scenes . C cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.scoring.view_metrics import DECIMALS, Case, CaseMetrics, PairMetrics, case_score, series

Floats = NDArray[np.float64]
SERIES = ("spatiotemporal", "mse")
OVERLAPS = ("spatiotemporal", "spatial", "weighted_spatial")
VARIANCE_DECIMALS = {"spatiotemporal": DECIMALS, "spatial": DECIMALS + 1, "weighted_spatial": DECIMALS}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMeans:
    """Two clips compared: `PairMetrics` with each series as its mean and length."""

    spatial: float
    weighted_spatial: float
    spatiotemporal: float
    mse: float
    num_frames: int

    def length(self, name: str) -> int:
        """How many values `name` is the mean of: frames for a series, 1 for a scalar."""
        return self.num_frames if name in SERIES else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """One view of one scenario with its Verified score in percent."""

    scenario_id: str
    scene: str
    view: str
    category: str
    score: float
    found: PairMeans
    variance: PairMeans


def record_of(case: Case) -> CaseRecord:
    return CaseRecord(
        scenario_id=case.scenario_id,
        scene=case.scene,
        view=case.view,
        category=case.category,
        score=case_score(case.metrics).score,
        found=_means(case.metrics.take1),
        variance=_means(case.metrics.variance),
    )


def metric_means(metrics: CaseMetrics) -> dict[str, Any]:
    """The value of "means" in a case's record in scores.json."""
    return {"found": asdict(_means(metrics.take1)), "variance": asdict(_means(metrics.variance))}


def read_record(entry: Mapping[str, Any]) -> CaseRecord:
    """The inverse, from one entry of scores.json; KeyError or TypeError for one without "means"."""
    return CaseRecord(
        scenario_id=entry["scenario_id"],
        scene=entry["scene"],
        view=entry["view"],
        category=entry["category"],
        score=entry["score"],
        found=PairMeans(**entry["means"]["found"]),
        variance=PairMeans(**entry["means"]["variance"]),
    )


def verified_scores(cases: Sequence[CaseRecord], scenes: Sequence[str], weights: Floats) -> Floats:
    """Physics-IQ Verified in percent [R] where scene s of `scenes` counts weights[r, s] times."""
    place = _places(cases, scenes)
    sums = np.bincount(place, weights=[case.score for case in cases], minlength=len(scenes))
    counts = np.bincount(place, minlength=len(scenes))
    return np.asarray(weights @ sums / (weights @ counts), np.float64)


def original_scores(cases: Sequence[CaseRecord], scenes: Sequence[str], weights: Floats) -> Floats:
    """The original Physics-IQ score in percent [R], ratios of dataset means with the official rounding.

    NaN where it is 0 / 0. Equal to `view_metrics.original_score` but for a mean that lies exactly between two
    roundings, which the order of summation decides.
    """
    parts = _OriginalParts(cases, scenes, weights)
    overlap = np.zeros(len(weights))
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in OVERLAPS:
            found = parts.by_scene(name) if name == "spatiotemporal" else parts.by_view(_found, name)
            overlap += found / np.round(parts.by_view(_variance, name), VARIANCE_DECIMALS[name])
    excess = parts.by_scene("mse") - np.round(parts.by_view(_variance, "mse"), DECIMALS)
    score = 100.0 * (overlap / len(OVERLAPS) - excess)
    return np.asarray(np.round(np.clip(score, 0.0, 100.0), 2), np.float64)


def original_contributions(cases: Sequence[CaseRecord]) -> Callable[[CaseRecord], float]:
    """What a take of one case adds to the original score, up to a factor, when the variances are of `cases`.

    The score is linear in the takes, so that the best take of each case by this makes the best dataset score
    (exactly when every scene has every view).
    """
    scenes = sorted({case.scene for case in cases})
    parts = _OriginalParts(cases, scenes, np.ones((1, len(scenes))))
    variances = {
        name: float(np.round(parts.by_view(_variance, name)[0], VARIANCE_DECIMALS[name])) for name in OVERLAPS
    }

    def contribution(case: CaseRecord) -> float:
        ratios = [getattr(case.found, name) / (variances[name] or np.inf) for name in OVERLAPS]
        return float(sum(ratios) / len(OVERLAPS) - case.found.mse)

    return contribution


@dataclass(frozen=True, slots=True)
class _OriginalParts:
    """The two averages of the original score, for weighted scenes."""

    cases: Sequence[CaseRecord]
    scenes: Sequence[str]
    weights: Floats  # [R, S]

    def by_scene(self, name: str) -> Floats:
        """Mean over scenes of the mean over all frames of all views of a scene [R]."""
        place = _places(self.cases, self.scenes)
        sums, counts = _totals(self.cases, _found, name, place, len(self.scenes))
        means = np.divide(sums, counts, out=np.zeros(len(self.scenes)), where=counts > 0)
        return np.asarray(self.weights @ means / (self.weights @ (counts > 0)), np.float64)

    def by_view(self, pair: Callable[[CaseRecord], PairMeans], name: str) -> Floats:
        """Mean over views of the mean over all values of a view [R]; a view that no scene has is left out."""
        columns = []
        for view in sorted({case.view for case in self.cases}):
            cases = [case for case in self.cases if case.view == view]
            sums, counts = _totals(cases, pair, name, _places(cases, self.scenes), len(self.scenes))
            total = self.weights @ counts
            columns.append(
                np.divide(self.weights @ sums, total, out=np.full(len(total), np.nan), where=total > 0)
            )
        return np.asarray(np.nanmean(columns, axis=0), np.float64)


def _means(pair: PairMetrics) -> PairMeans:
    return PairMeans(
        spatial=pair.spatial,
        weighted_spatial=pair.weighted_spatial,
        spatiotemporal=float(np.mean(series(pair, "spatiotemporal"))),
        mse=float(np.mean(series(pair, "mse"))),
        num_frames=len(pair.mse),
    )


def _found(case: CaseRecord) -> PairMeans:
    return case.found


def _variance(case: CaseRecord) -> PairMeans:
    return case.variance


def _places(cases: Sequence[CaseRecord], scenes: Sequence[str]) -> NDArray[np.int64]:
    """Position in `scenes` of each case [C]."""
    position = {scene: index for index, scene in enumerate(scenes)}
    return np.array([position[case.scene] for case in cases], np.int64)


def _totals(
    cases: Sequence[CaseRecord],
    pair: Callable[[CaseRecord], PairMeans],
    name: str,
    place: NDArray[np.int64],
    num_scenes: int,
) -> tuple[Floats, Floats]:
    """Sum and number of the values `name` of each scene, both [S]."""
    lengths = np.array([pair(case).length(name) for case in cases], np.float64)
    means = np.array([getattr(pair(case), name) for case in cases], np.float64)
    sums = np.bincount(place, weights=means * lengths, minlength=num_scenes).astype(np.float64)
    counts = np.bincount(place, weights=lengths, minlength=num_scenes).astype(np.float64)
    return sums, counts
