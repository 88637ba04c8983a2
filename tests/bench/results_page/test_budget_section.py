"""The section of loops at equal cost: arms against their aims, and what a rank predicts."""

from __future__ import annotations

from typing import Any

from bench.results_page.budget_section import loop_budget
from bench.results_page.result_files import ResultFile

SCOUTS = "scouts 2 whole by consensus"


def mean(value: float, **more: Any) -> dict[str, Any]:
    return {"mean": value, "ci95": [value - 1, value + 1], "n": 9, **more}


def arm(value: float, num: int, cost: float) -> dict[str, Any]:
    gain = {"minus_single": mean(value - 60), "share_of_oracle": {"value": (value - 60) / 10, "ci95": None}}
    return mean(value, num=num, cost=cost, **gain)


def document(*, share: float | None = 0.3) -> dict[str, Any]:
    arms = {"single": arm(60, 1, 1), "best of both by consensus": arm(61, 2, 2.1), "oracle": arm(66, 2, 2)}
    found = arms | ({SCOUTS: arm(63, 8, 1.9)} if share is not None else {})
    found["by_category"] = {"Optics": {name: mean(one["mean"]) for name, one in found.items()}}  # type: ignore[index]
    named = {"2x": SCOUTS if share is not None else None}
    difference = None if share is None else mean(2.0)
    return {
        "num_scenarios": 9,
        "costs": {"take_s": 20.0, "take_steps": 16, "plan_s": 1.0, "critique_s": 0.5},
        "summary": {
            "share_of_oracle_at_2x": share,
            "share_of_oracle_at_8x": None,
            "scout_minus_best_of_2": difference,
            "scout_minus_best_of_8": None,
        },
        "scouts": {"2x": None if share is None else {"steps": 2}},
        "scouts_by_name": named,
        "best_scouts": named,
        "best_of": {"2x": "best of both by consensus"},
        "budgets": {"2x": found},
        "rank_prediction": [
            {
                "steps": 2,
                "form": "whole",
                "by": "score",
                **mean(0.5),
                "by_kind": {"ball": mean(0.9), "ice": mean(0.1)},
            }
        ],
        "notes": ["single: the first."],
    }


def section(**how: Any) -> Any:
    return loop_budget(ResultFile(name="loop_budget", kind="loop_budget", document=document(**how)))


def test_aims_are_told_with_what_came_of_them() -> None:
    found = section()
    assert found.headline == (
        "scouts at 2x gain 30 % of the oracle's, aim 40 %, **missed**; "
        "at 2x, above best-of-2: +2.00 (+1.00 to +3.00) points"
    )
    assert "met" in section(share=0.4).headline
    assert section(share=None).headline == "no budget had room for scouts"


def test_arms_categories_and_ranks_are_tables() -> None:
    body = section().body
    assert (
        f"| 2x | scouts: {SCOUTS} | 8 | 1.90× | 63.0 (62.0 to 64.0) | +3.00 (+2.00 to +4.00) | 30 % |" in body
    )
    assert "| Optics | 9 | 60.0 (59.0 to 61.0) | 63.0 (62.0 to 64.0) | 66.0 (65.0 to 67.0) |" in body
    assert "| 2 whole | score | 9 | +0.50 (-0.50 to +1.50) | ice +0.10, ball +0.90 |" in body
    assert "a single take of 16 steps, which costs 20.0 s; a plan costs 1.0 s" in body
    assert "single: the first." not in body, "the page tells the notes of every file"
