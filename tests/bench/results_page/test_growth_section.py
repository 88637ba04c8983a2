"""The section on growth: every figure from the file, and a gap where a size was left out."""

from __future__ import annotations

from bench.results_page.growth_section import growth
from bench.results_page.page import SECTIONS
from bench.results_page.result_files import ResultFile

DOCUMENT = {
    "rows": {
        "run": {"66": {"rss_mb": 85.7}, "5000": {"rss_mb": 267.5}},
        "select": {"66": {"rss_mb": 212.9}},
    },
    "exponents": {"run rss_mb": 0.98},
    "summary": {"largest_exponent": 0.98, "run_rss_mb_5000": 267.5},
    "targets": {"run_rss_mb_5000": 300},
}


def test_figures_sizes_and_exponents() -> None:
    section = growth(ResultFile(name="growth", kind="growth", document=DOCUMENT))
    assert SECTIONS["growth"] is growth
    assert section.headline == "largest_exponent 0.98, run_rss_mb_5000 267.5"
    lines = section.body.splitlines()
    assert lines[2:4] == ["| largest_exponent | 0.98 |  |", "| run_rss_mb_5000 | 267.5 | 300 |"]
    assert lines[5] == "| figure | 66 | 5000 | exponent |"
    assert lines[7:] == ["| run: rss_mb | 85.7 | 267.5 | 0.98 |", "| select: rss_mb | 212.9 |  |  |"]
