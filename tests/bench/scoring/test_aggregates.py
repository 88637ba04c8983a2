"""The official tool's other aggregates, by hand on small tables; its own values: check/test_golden.py."""

from __future__ import annotations

import math

import pytest

from bench.scoring.aggregates import NAMES, official_aggregates
from bench.scoring.view_metrics import Case, CaseMetrics, PairMetrics, original_score, verified_score

VARIANCE = PairMetrics(mse=(0.02, 0.02), spatiotemporal=(0.8, 0.8), spatial=0.5, weighted_spatial=0.4)


def pair(level: float, mse: float = 0.03) -> PairMetrics:
    return PairMetrics(mse=(mse, mse), spatiotemporal=(level, level), spatial=level, weighted_spatial=level)


def case(scene: str, view: str, found: PairMetrics, variance: PairMetrics = VARIANCE) -> Case:
    metrics = CaseMetrics(take1=found, take2=found, variance=variance)
    return Case(scenario_id=f"{scene}_{view}", scene=scene, view=view, category="c", metrics=metrics)


def table(level: float, mse: float = 0.03) -> list[Case]:
    return [
        case(scene, f"perspective-{view}", pair(level, mse)) for scene in "ab" for view in ("left", "right")
    ]


def test_components_by_hand() -> None:
    found = official_aggregates(table(0.2))
    assert tuple(found) == NAMES
    assert found["score_spatiotemporal"] == pytest.approx(0.2 / 0.8)
    assert found["score_spatial"] == pytest.approx(0.2 / 0.5)
    assert found["score_weighted_spatial"] == pytest.approx(0.2 / 0.4)
    assert found["score_mse"] == pytest.approx(0.01)  # a difference, not a ratio
    mean = (0.25 + 0.4 + 0.5) / 3 - 0.01
    assert [found[f"final_score_{name}"] for name in ("raw", "stable", "orig")] == pytest.approx([mean] * 3)
    assert found["final_score_origround"] == round(100 * mean, 2)
    assert found["variance_spatial"] == pytest.approx(0.5)
    assert found["score_mse_view"] == pytest.approx(0.02 / 0.03, abs=1e-6)
    assert found["final_score_view"] == pytest.approx((0.25 + 0.4 + 0.5 + 2 / 3) / 4, abs=1e-6)


def test_stable_caps_each_ratio_and_orig_only_the_sum() -> None:
    """Ratios 0.75, 1.2 and 1.5; take 1 less alike than take 2 makes the error negative, which stable cuts."""
    found = official_aggregates(table(0.6, mse=0.01))
    assert found["final_score_raw"] == pytest.approx((0.75 + 1.2 + 1.5) / 3 + 0.01)
    assert found["final_score_orig"] == 1.0
    assert found["final_score_stable"] == pytest.approx((0.75 + 1 + 1) / 3)
    assert found["final_score_origround"] == 100.0


def test_aggregates_agree_with_both_scores_and_ignore_order() -> None:
    cases = [*table(0.3), case("c", "perspective-left", pair(0.7))]
    found = official_aggregates(cases)
    assert found["final_score_origround"] == original_score(cases)
    assert found["final_score_view"] == pytest.approx(verified_score(cases) / 100, abs=1e-15)
    assert official_aggregates(cases[::-1]) == found


def test_what_cannot_be_divided_is_none_and_the_rest_is_not() -> None:
    """Without any agreement of the takes: ratios are infinite, and the official sum is then cut to 1."""
    apart = PairMetrics(mse=(0.02,), spatiotemporal=(0.0,), spatial=0.0, weighted_spatial=0.0)
    infinite = official_aggregates([case("a", "perspective-left", pair(0.2), apart)])
    assert infinite["score_spatial"] is None and infinite["final_score_raw"] is None
    assert infinite["final_score_orig"] == 1.0 and infinite["final_score_origround"] == 100.0
    nothing = official_aggregates([case("a", "perspective-left", apart, apart)])
    assert nothing["final_score_orig"] is None and nothing["final_score_origround"] is None
    assert all(value is None or math.isfinite(value) for value in (*infinite.values(), *nothing.values()))


def test_no_cases_have_no_numbers() -> None:
    assert official_aggregates([]) == dict.fromkeys(NAMES)
