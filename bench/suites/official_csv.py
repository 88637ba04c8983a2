"""Case metrics as the official evaluator's CSV: one row per scenario, twelve columns per view.

Knows no scores. Series are written as Python lists, as upstream reads them back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bench.suites.view_metrics import Case, CaseMetrics


def csv_text(cases: Sequence[Case]) -> str:
    """Rows in scenario-id order; a view that was not scored leaves its cells empty."""
    views = sorted({case.view for case in cases})
    by_scene: dict[str, dict[str, Case]] = {}
    for case in sorted(cases, key=lambda case: case.scenario_id):
        by_scene.setdefault(case.scene, {})[case.view] = case
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["scenario", *_columns(views)], restval="", lineterminator="\n")
    writer.writeheader()
    for scene, of_view in by_scene.items():
        record: dict[str, object] = {"scenario": f"{scene}.mp4"}
        for view, case in of_view.items():
            record |= {f"{name}_{view}": value for name, value in _cells(case.metrics).items()}
        writer.writerow(record)
    return text.getvalue()


_NAMES = {
    "mse": ("v1_mse", "v2_mse", "variance_mse"),
    "spatiotemporal": ("spatiotemporal_iou_v1", "spatiotemporal_iou_v2", "variance_spatiotemporal_iou"),
    "spatial": ("spatial_iou_v1", "spatial_iou_v2", "variance_spatial"),
    "weighted_spatial": ("weighted_spatial_iou_v1", "weighted_spatial_iou_v2", "variance_weighted_spatial"),
}


def _columns(views: Sequence[str]) -> list[str]:
    return [f"{name}_{view}" for view in views for names in _NAMES.values() for name in names]


def _cells(metrics: CaseMetrics) -> dict[str, float | list[float]]:
    cells: dict[str, float | list[float]] = {}
    for field, names in _NAMES.items():
        for name, pair in zip(names, (metrics.take1, metrics.take2, metrics.variance), strict=True):
            value = getattr(pair, field)
            cells[name] = list(value) if isinstance(value, tuple) else value
    return cells
