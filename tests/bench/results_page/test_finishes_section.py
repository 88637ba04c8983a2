"""Finishes of scouts: every figure of a row in its place, and the best one in the headline."""

from __future__ import annotations

from typing import Any

from bench.results_page.finishes_section import scout_finishes
from bench.results_page.result_files import ResultFile


def interval(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [low, high]}


def row(**changed: Any) -> dict[str, Any]:
    return {
        "steps": 2,
        "form": "whole",
        "kept": 0.5,
        "again": 0,
        "num_takes": 144,
        "plain": interval(58.6, 53.9, 63.1),
        "minus_plain": interval(0.24, -0.23, 0.86),
        "of_best_look": interval(1.39, -0.06, 3.76),
        "follows": {"plain": interval(0.74, 0.62, 0.85), "finish": interval(0.76, 0.62, 0.87)},
        **changed,
    }


def test_rows_and_headline() -> None:
    again = row(kept=0.0, again=2, form="first", minus_plain=interval(1.26, 0.19, 2.34))
    look = {"steps": 4, "form": "whole", "by": "consensus", "n": 36, **interval(0.16, -0.04, 0.34)}
    document = {"num_scenes": 36, "finishes": [row(), again], "looks": {"1/2": [look]}}
    section = scout_finishes(ResultFile(name="x", kind="scout_finishes", document=document))
    assert section.headline == (
        "of 2 ways on 36 tuning scenes the best: first steps again 2x behind 2 first steps, "
        "+1.26 (+0.19 to +2.34) points against the take from the same noise"
    )
    assert (
        "| 2 whole | motion kept, 50 % of the steps | 144 | 58.6 (53.9 to 63.1) | +0.24 (-0.23 to +0.86) "
        "| +1.39 (-0.06 to +3.76) | 0.74 (0.62 to 0.85) | 0.76 (0.62 to 0.87) |"
    ) in section.body
    assert "| 1/2 | 4 | consensus | 36 | +0.16 (-0.04 to +0.34) |" in section.body
