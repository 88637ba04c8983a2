"""The section of controls: which is told, and that the headline says when none of them gains."""

from __future__ import annotations

from typing import Any

from bench.results_page.controls_section import loop_controls
from bench.results_page.result_files import ResultFile


def interval(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [low, high]}


def section(suffix: dict[str, Any], best: str) -> Any:
    minus = {
        "suffix": suffix,
        "other_plan": interval(-4.7, -6.6, -2.8),
        "filler": interval(-6.2, -7.9, -4.4),
    }
    document = {
        "n": 240,
        **{name: interval(58.5, 56.1, 60.8) for name in ("first_take", "plan_prompt", "chosen", *minus)},
        "minus_first": minus,
        "best_control": best,
        "above_best_control": {"chosen": interval(7.4, 5.6, 9.3)},
    }
    return loop_controls(ResultFile(name="loop_controls", kind="loop_controls", document=document))


def test_controls_that_all_lose_are_said_to() -> None:
    found = section(interval(-2.5, -4.1, -0.8), "suffix")
    assert found.headline == (
        "every control is worse than the brief text alone; chosen take minus the best control "
        "+7.4 (+5.6 to +9.3) points"
    )
    assert "| the plan of another scene | 58.5 (56.1 to 60.8) | -4.7 (-6.6 to -2.8) |" in found.body
    assert "240 held-out scenarios" in found.body


def test_a_control_that_may_gain_is_named() -> None:
    found = section(interval(-0.5, -1.1, 0.1), "suffix")
    assert found.headline.startswith("the best control is a sentence that everything obeys physics")
