"""Seconds of the demo: every run in the table, the aims beside it, and what a file without a ratio says."""

from __future__ import annotations

from typing import Any

from bench.results_page.demo_seconds_section import demo_seconds
from bench.results_page.page import SECTIONS
from bench.results_page.result_files import ResultFile

RUN = {"scenarios": 6, "takes": 15, "mean_score": 65.0}
DOCUMENT: dict[str, Any] = {
    "cores": 2,
    "aims": {"gpu_warm_s": 30.0, "cpu_over_gpu": 3.0},
    "summary": {"gpu_cold_s": 61.0, "gpu_warm_s": 28.5, "cpu_over_gpu": 4.75},
    "runs": {"gpu": [RUN | {"seconds": s} for s in (61.0, 28.0, 29.0)], "cpu": [RUN | {"seconds": 135.4}]},
}


def of(document: dict[str, Any]) -> Any:
    return demo_seconds(ResultFile(name="demo_seconds_h200", kind="demo_seconds", document=document))


def test_all_runs_and_aims_are_told() -> None:
    assert SECTIONS["demo_seconds"] is demo_seconds
    section = of(DOCUMENT)
    assert section.headline == "28.5 s on a GPU, 4.75× as fast as on two cores"
    assert "| the GPU | 61.0 | 28.0, 29.0 | 6 | 15 | 65.0 |" in section.body
    assert "| 2 cores of the CPU | 135 |" in section.body
    assert "| gpu_warm_s | 28.5 | 30.0 |" in section.body


def test_without_a_second_run_there_is_no_ratio() -> None:
    section = of(DOCUMENT | {"summary": {"gpu_cold_s": 61.0}})
    assert section.headline == "no warm run on a GPU"
