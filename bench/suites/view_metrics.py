"""The numbers of the Physics-IQ scores, Original and Verified, from reduced frames and masks in memory.

Knows no files. Takes are compared pairwise: generated against take 1, and take 1 against take 2, which is the
physical variance that the scores divide by. Means, rounding and clipping follow the official evaluator.
Legend: T frames · h, w reduced pixels (a quarter of the real take-1 clip).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.motion import masks_of
from engine.types import Frames

EPSILON = 1e-8
DECIMALS = 4  # per-frame values, as the official CSV reader rounds them
_UNIT = (np.arange(256) / 255.0).astype(np.float32)


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
    """Verified sub-scores of one case, each clipped to [0, 1], and their mean in percent."""

    spatial: float
    weighted_spatial: float
    spatiotemporal: float
    mse: float

    @property
    def score(self) -> float:
        return 25.0 * (self.spatial + self.weighted_spatial + self.spatiotemporal + self.mse)


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
    length = min(len(a.frames), len(b.frames))
    masked = min(len(a.masks), len(b.masks))
    shares = [clip.masks.sum(axis=0, dtype=np.uint16) / len(clip.masks) for clip in (a, b)]
    larger = float(np.maximum(*shares).sum())
    return PairMetrics(
        mse=tuple(float(np.mean((_UNIT[a.frames[t]] - _UNIT[b.frames[t]]) ** 2)) for t in range(length)),
        spatiotemporal=tuple(iou(a.masks[t], b.masks[t]) for t in range(masked)),
        spatial=iou(*(np.logical_or.reduce(clip.masks, axis=0) for clip in (a, b))),
        weighted_spatial=float(np.minimum(*shares).sum()) / larger if larger > 0 else 1.0,
    )


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1.0 when both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def case_score(metrics: CaseMetrics) -> CaseScore:
    """The Verified score of one case."""
    found, variance = metrics.take1, metrics.variance
    error = _mean(found.mse) / (_mean(variance.mse) + EPSILON)
    return CaseScore(
        spatial=_share(found.spatial, variance.spatial),
        weighted_spatial=_share(found.weighted_spatial, variance.weighted_spatial),
        spatiotemporal=_share(_mean(found.spatiotemporal), _mean(variance.spatiotemporal)),
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


def score_frames(take1: Frames, take2: Frames, generated: Frames) -> CaseScore:
    """`score_case` from RGB frames [T, H, W, 3] of any sizes; masks are computed, no file is written."""
    size = reduced_size(take1.shape[2], take1.shape[1])
    clips = [reduce_clip(frames, masks_of(frames), size) for frames in (take1, take2, generated)]
    return score_case(*clips)


def verified_score(cases: Sequence[Case]) -> float | None:
    """Physics-IQ Verified in percent: the mean of the case scores; None without cases."""
    return float(np.mean([case_score(case.metrics).score for case in cases])) if cases else None


def verified_sub_scores(cases: Sequence[Case]) -> dict[str, float]:
    """The four per-metric means in percent."""
    scores = [case_score(case.metrics) for case in cases]
    names = ("spatial", "weighted_spatial", "spatiotemporal", "mse")
    return {name: 100.0 * float(np.mean([getattr(score, name) for score in scores])) for name in names}


def original_score(cases: Sequence[Case]) -> float | None:
    """The original Physics-IQ score in percent; None when there is nothing to divide by.

    Ratios of dataset means, where frames of a scenario's views are pooled for the series and views are
    averaged for the scalars; variances are averaged by view and rounded, the spatial one to 5 decimals.
    """
    if not cases:
        return None
    take1, variance = (lambda m: m.take1), (lambda m: m.variance)
    variances = {
        "spatiotemporal": round(_by_view(cases, variance, "spatiotemporal"), DECIMALS),
        "spatial": round(_by_view(cases, variance, "spatial"), DECIMALS + 1),
        "weighted_spatial": round(_by_view(cases, variance, "weighted_spatial"), DECIMALS),
    }
    if not all(variances.values()):
        return None
    found = {
        "spatiotemporal": _by_scene(cases, "spatiotemporal"),
        "spatial": _by_view(cases, take1, "spatial"),
        "weighted_spatial": _by_view(cases, take1, "weighted_spatial"),
    }
    overlap = sum(found[name] / variances[name] for name in variances) / 3
    excess = _by_scene(cases, "mse") - round(_by_view(cases, variance, "mse"), DECIMALS)
    return round(min(100.0, max(0.0, 100.0 * (overlap - excess))), 2)


def _by_view(cases: Sequence[Case], pair: Callable[[CaseMetrics], PairMetrics], name: str) -> float:
    """Mean over views of the mean over all values (frames or scalars) of a view."""
    views = sorted({case.view for case in cases})
    values = [
        [value for case in cases if case.view == view for value in _values(pair(case.metrics), name)]
        for view in views
    ]
    return float(np.mean([np.mean(column) for column in values]))


def _by_scene(cases: Sequence[Case], name: str) -> float:
    """Mean over scenarios of the mean over all frames of all views of a scenario."""
    scenes = sorted({case.scene for case in cases})
    values = [
        [value for case in cases if case.scene == scene for value in _values(case.metrics.take1, name)]
        for scene in scenes
    ]
    return float(np.mean([np.mean(row) for row in values]))


def _values(pair: PairMetrics, name: str) -> Sequence[float]:
    value = getattr(pair, name)
    return [round(entry, DECIMALS) for entry in value] if isinstance(value, tuple) else [value]


def _mean(series: Sequence[float]) -> float:
    return float(np.mean([round(value, DECIMALS) for value in series]))


def _share(found: float, variance: float) -> float:
    return min(1.0, max(0.0, found / (variance + EPSILON)))
