"""The numbers of the Physics-IQ scores, Original and Verified, from reduced frames and masks in memory.

Knows no files. Takes are compared pairwise: generated against take 1, and take 1 against take 2, which is the
physical variance that the scores divide by. Means, rounding and clipping follow the official evaluator, down
to the order of summation: scores are equal, not close.
Legend: T frames . h, w reduced pixels (a quarter of the real take-1 clip).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.datasets.physics_iq import VIEWS
from engine.types import Frames

EPSILON = 1e-8
DECIMALS = 4  # per-frame values, as the official CSV reader rounds them


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedClip:
    frames: Frames  # uint8 [T, h, w, 3], RGB or BGR
    masks: NDArray[np.bool_]  # [T, h, w]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMetrics:
    """Two clips compared; series have one value per frame of the shorter clip."""

    mse: tuple[float, ...]
    spatiotemporal: tuple[float, ...]
    spatial: float
    weighted_spatial: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMetrics:
    """One view of one scenario. `take2` is in the official CSV and in no score."""

    take1: PairMetrics
    take2: PairMetrics
    variance: PairMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseScore:
    """Verified sub-scores of one case, each clipped to [0, 1]."""

    spatial: float
    weighted_spatial: float
    spatiotemporal: float
    mse: float

    @property
    def mean(self) -> float:
        return (self.spatial + self.weighted_spatial + self.spatiotemporal + self.mse) / 4

    @property
    def score(self) -> float:
        """The mean in percent."""
        return 100.0 * self.mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    scenario_id: str
    scene: str  # shared by the views of one scenario
    view: str
    category: str
    metrics: CaseMetrics


def reduced_size(width: int, height: int) -> tuple[int, int]:
    """(w, h) at which a real take-1 clip of this size, and all that is compared with it, is scored."""
    return width // 4, height // 4


def reduce_frame(frame: Frames, size: tuple[int, int]) -> Frames:
    """Bilinear without antialiasing, as the benchmark does: not a proper downscale, on purpose."""
    return np.asarray(cv2.resize(frame, size), np.uint8)


def reduce_clip(frames: Frames, masks: NDArray[np.uint8], size: tuple[int, int]) -> ReducedClip:
    """Frames [T, H, W, 3] and masks {0, 255} [T, H', W'] at (w, h) = `size`; a mask is on above 127."""
    return ReducedClip(
        frames=np.stack([reduce_frame(frame, size) for frame in frames]),
        masks=np.stack([reduce_frame(mask, size) for mask in masks]) > 127,
    )


def compare(a: ReducedClip, b: ReducedClip) -> PairMetrics:
    """Both clips and all masks must have the same number of frames: the official tool refuses others too."""
    lengths = {len(a.frames), len(b.frames), len(a.masks), len(b.masks)}
    assert len(lengths) == 1, f"clips and masks of {sorted(lengths)} frames"
    return PairMetrics(
        mse=tuple(squared_error(*pair) for pair in zip(a.frames, b.frames, strict=True)),
        spatiotemporal=tuple(iou(*pair) for pair in zip(a.masks, b.masks, strict=True)),
        spatial=iou(*(np.logical_or.reduce(clip.masks, axis=0) for clip in (a, b))),
        weighted_spatial=share_iou(*(motion_share(clip.masks) for clip in (a, b))),
    )


def squared_error(a: Frames, b: Frames) -> float:
    """Mean over pixels and channels of the squared difference in units of 1/255, in float32 throughout.

    Dividing in float32 gives the same 256 values as rounding the float64 quotients, in a quarter of the time.
    """
    difference = np.divide(a, np.float32(255), dtype=np.float32)
    difference -= np.divide(b, np.float32(255), dtype=np.float32)
    return float(np.square(difference, out=difference).mean())


def motion_share(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Per pixel the share of frames with motion, [h, w]."""
    return np.asarray(masks.sum(axis=0, dtype=np.uint16) / len(masks), np.float64)


def share_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Sum of minima over sum of maxima; 1.0 when nothing moves."""
    larger = np.maximum(a, b)
    moving = larger > 0
    if not moving.any():
        return 1.0
    # adding the zeros as well would round the sums another way
    return float(np.minimum(a, b)[moving].sum() / larger[moving].sum())


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1.0 when both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def case_score(metrics: CaseMetrics) -> CaseScore:
    """The Verified score of one case."""
    found, variance = metrics.take1, metrics.variance
    error = _mean(found, "mse") / (_mean(variance, "mse") + EPSILON)
    return CaseScore(
        spatial=_share(found.spatial, variance.spatial),
        weighted_spatial=_share(found.weighted_spatial, variance.weighted_spatial),
        spatiotemporal=_share(_mean(found, "spatiotemporal"), _mean(variance, "spatiotemporal")),
        mse=min(1.0, 1.0 / error) if error > 0 else 1.0,
    )


def case_metrics(
    take1: ReducedClip, take2: ReducedClip, generated: ReducedClip, variance: PairMetrics
) -> CaseMetrics:
    """All twelve quantities of one case; `variance` is `compare(take1, take2)`, shared by many clips."""
    return CaseMetrics(take1=compare(take1, generated), take2=compare(take2, generated), variance=variance)


def score_case(take1: ReducedClip, take2: ReducedClip, generated: ReducedClip) -> CaseScore:
    """Score one generated clip against both takes, all in memory and of one size."""
    return case_score(case_metrics(take1, take2, generated, compare(take1, take2)))


def in_official_order(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases of each scenario: scenarios by their lowest id, views left, center, right, others by name."""
    scenes: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.scenario_id):
        scenes.setdefault(case.scene, []).append(case)
    rank = {view: number for number, view in enumerate(view_names(cases))}
    return [sorted(scene, key=lambda case: rank[case.view]) for scene in scenes.values()]


def view_names(cases: Sequence[Case]) -> list[str]:
    """The views of these cases, in the official order."""
    found = {case.view for case in cases}
    return [*(view for view in VIEWS if view in found), *sorted(found.difference(VIEWS))]


def verified_score(cases: Sequence[Case]) -> float | None:
    """Physics-IQ Verified in percent: the mean of the case scores; None without cases."""
    return 100.0 * verified_means(cases)["mean"] if cases else None


def verified_sub_scores(cases: Sequence[Case]) -> dict[str, float]:
    """The four per-metric means in percent."""
    return {name: 100.0 * value for name, value in verified_means(cases).items() if name != "mean"}


def verified_means(cases: Sequence[Case]) -> dict[str, float]:
    """The mean over at least one case of each sub-score and of the case mean, as fractions of 1."""
    scores = [case_score(case.metrics) for scene in in_official_order(cases) for case in scene]
    names = ("spatial", "weighted_spatial", "spatiotemporal", "mse", "mean")
    return {name: float(np.mean([getattr(score, name) for score in scores])) for name in names}


def original_score(cases: Sequence[Case]) -> float | None:
    """The original Physics-IQ score in percent; None without cases and where it is 0 / 0.

    Ratios of dataset means, where frames of a scenario's views are pooled for the series and views are
    averaged for the scalars; variances are averaged by view and rounded, the spatial one to 5 decimals.
    """
    if not cases:
        return None
    ordered = in_official_order(cases)
    take1, variance = (lambda m: m.take1), (lambda m: m.variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        overlap = (
            pooled(ordered, take1, "spatiotemporal")
            / np.round(_by_view(ordered, variance, "spatiotemporal"), DECIMALS)
            + _by_view(ordered, take1, "spatial")
            / np.round(_by_view(ordered, variance, "spatial"), DECIMALS + 1)
            + _by_view(ordered, take1, "weighted_spatial")
            / np.round(_by_view(ordered, variance, "weighted_spatial"), DECIMALS)
        ) / 3
    excess = pooled(ordered, take1, "mse") - np.round(_by_view(ordered, variance, "mse"), DECIMALS)
    score = (overlap - excess) * 100
    # np.round and not round: it scales by a power of ten first, which decides ties another way
    return None if np.isnan(score) else float(np.round(np.clip(score, 0.0, 100.0), 2))


def _by_view(
    scenes: Sequence[Sequence[Case]], pair: Callable[[CaseMetrics], PairMetrics], name: str
) -> np.float64:
    """Mean over views of the mean over all values (frames or scalars) of a view."""
    cases = [case for scene in scenes for case in scene]
    means = []
    for view in view_names(cases):
        found = [series(pair(case.metrics), name) for case in cases if case.view == view]
        values = [value for entry in found for value in entry]
        # objects, because the official tool sums them as such: in blocks, which can decide the rounding
        means.append(np.array(values, dtype=object).sum(dtype=np.float64) / len(values))
    return np.float64(np.mean(means))


def pooled(
    scenes: Sequence[Sequence[Case]], pair: Callable[[CaseMetrics], PairMetrics], name: str
) -> np.float64:
    """Mean over scenarios of the mean over the frames of all views, or over the views' scalars."""
    rows = [[value for case in scene for value in series(pair(case.metrics), name)] for scene in scenes]
    return np.float64(np.mean([np.mean(row) for row in rows]))


def series(pair: PairMetrics, name: str) -> list[float]:
    """The values of one metric, per frame and rounded as the official CSV reader does, or the one scalar."""
    value = getattr(pair, name)
    return [round(entry, DECIMALS) for entry in value] if isinstance(value, tuple) else [value]


def _mean(pair: PairMetrics, name: str) -> float:
    return float(np.mean(series(pair, name)))


def _share(found: float, variance: float) -> float:
    return min(1.0, max(0.0, found / (variance + EPSILON)))
