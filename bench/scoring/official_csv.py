"""Case metrics as the official evaluator's CSV: one row per scenario, twelve columns per view.

Knows no scores. For a complete set of cases the text is, byte for byte, what the official tool writes in its
serial mode: its columns, its row order, series as Python lists, full precision.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bench.scoring.view_metrics import Case, CaseMetrics, in_official_order, view_names

_COLUMNS = {  # official name: which comparison, which metric
    "spatiotemporal_iou_v1": ("take1", "spatiotemporal"),
    "spatiotemporal_iou_v2": ("take2", "spatiotemporal"),
    "spatial_iou_v1": ("take1", "spatial"),
    "spatial_iou_v2": ("take2", "spatial"),
    "weighted_spatial_iou_v1": ("take1", "weighted_spatial"),
    "weighted_spatial_iou_v2": ("take2", "weighted_spatial"),
    "v1_mse": ("take1", "mse"),
    "v2_mse": ("take2", "mse"),
    "variance_spatial": ("variance", "spatial"),
    "variance_weighted_spatial": ("variance", "weighted_spatial"),
    "variance_spatiotemporal_iou": ("variance", "spatiotemporal"),
    "variance_mse": ("variance", "mse"),
}


def csv_text(cases: Sequence[Case]) -> str:
    """Rows in scenario-id order; a view that was not scored leaves its cells empty."""
    columns = [f"{name}_{view}" for view in view_names(cases) for name in _COLUMNS]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["scenario", *columns], restval="", lineterminator="\n")
    writer.writeheader()
    for scene in in_official_order(cases):
        record: dict[str, object] = {"scenario": f"{scene[0].scene}.mp4"}
        for case in scene:
            record |= {f"{name}_{case.view}": value for name, value in _cells(case.metrics).items()}
        writer.writerow(record)
    return text.getvalue()


def _cells(metrics: CaseMetrics) -> dict[str, float | list[float]]:
    cells: dict[str, float | list[float]] = {}
    for name, (pair, metric) in _COLUMNS.items():
        value = getattr(getattr(metrics, pair), metric)
        cells[name] = list(value) if isinstance(value, tuple) else value
    return cells
