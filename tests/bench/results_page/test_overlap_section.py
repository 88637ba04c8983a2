"""The section of two models at once: the numbers of the file, reasons, and nothing where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from measurements import MANIFEST, put

from bench.results_page.page import make_page


def way(name: str, makespan_s: float, **more: Any) -> dict[str, Any]:
    made = {
        "name": name,
        "kind": "at once",
        "replies": 2,
        "runs_s": [makespan_s, makespan_s],
        "makespan_s": makespan_s,
        "step_ms": 650.0,
        "slowdown": 1.05,
        "tokens_per_s": 120.4,
        "equal": True,
        "gpu": {"sm_clock_mhz": 1755.0, "power_w": 695.0, "gpu_percent": None},
        "over_sum_of_both": 1.2,
        "over_slicing": 1.25,
        "critic_share_hidden": 0.5,
    }
    return made | more


def page(folder: Path, summary: dict[str, Any], *ways: dict[str, Any]) -> str:
    document = {
        "schema": 1,
        "kind": "overlap",
        "manifest": MANIFEST,
        "settings": {"size": "full", "preset": "fast", "steps": 4, "takes": 1, "reply_tokens": 400},
        "summary": summary,
        "checks": [{"name": "frames are equal", "holds": True, "found": "equal in 8 ways"}],
        "ways": list(ways),
    }
    put(folder, "overlap_h200", document)
    return make_page(folder).text


def test_ways_are_shown_and_reasons_told(tmp_path: Path) -> None:
    summary = {
        "four_step_over_slicing": 1.25,
        "critic_share_hidden": 0.5,
        "best_sharing": "margin 16",
        "best_sharing_over_slicing": 1.3,
    }
    alone = way("generation alone", 6.0, replies=0, tokens_per_s=None, over_slicing=None)
    other = way("margin 16", 7.7, equal=False)
    absent = {"name": "green", "reason": "the driver lacks x"}
    text = page(tmp_path, summary, alone, way("streams", 8.0), other, absent)
    assert "1.25× as fast as in turns at step boundaries; 50 % of the critic's time hidden" in text
    assert "best: margin 16, 1.30×" in text and "4 denoise steps" in text
    assert (
        "| streams (2 replies) | 8 | 2 | 1.20× | 1.25× | 50 | 650 | 1.05× | 120 | yes | 1755 | 695 |" in text
    )
    assert "| generation alone | 6 |" in text and "| margin 16 (2 replies) | 7.7 |" in text
    assert "| **no** |" in text and "- green: the driver lacks x" in text
    assert "- frames are equal: yes (equal in 8 ways)" in text


def test_what_was_not_measured_is_not_told(tmp_path: Path) -> None:
    text = page(tmp_path, {}, {"name": "streams", "reason": "out of memory"})
    assert "not every way that this takes was measured" in text and "×" not in text
