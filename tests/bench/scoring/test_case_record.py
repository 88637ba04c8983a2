"""Cases as a few numbers: both scores recomputed from them equal the scorer's, also for resampled scenes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.scoring.case_record import (
    CaseRecord,
    metric_means,
    original_contributions,
    original_scores,
    read_record,
    verified_scores,
)
from bench.scoring.view_metrics import (
    Case,
    CaseMetrics,
    PairMetrics,
    case_score,
    original_score,
    verified_score,
)

VIEWS = ("perspective-left", "perspective-center", "perspective-right")


def random_pair(random: np.random.Generator, *, low: float, high: float, mse: float) -> PairMetrics:
    return PairMetrics(
        mse=tuple(random.uniform(0, mse, 40)),
        spatiotemporal=tuple(random.uniform(low, high, 40)),
        spatial=random.uniform(low, high),
        weighted_spatial=random.uniform(low, high),
    )


def random_cases(seed: int, *, scenes: int = 6, views: tuple[str, ...] = VIEWS) -> list[Case]:
    random = np.random.default_rng(seed)
    cases = []
    for scene in range(scenes):
        for number, view in enumerate(views):
            found = random_pair(random, low=0.0, high=0.6, mse=0.05)
            variance = random_pair(random, low=0.3, high=0.9, mse=0.02)
            metrics = CaseMetrics(take1=found, take2=found, variance=variance)
            name = f"{scene * len(views) + number + 1:04d}_{view}"
            cases.append(Case(scenario_id=name, scene=f"s-{scene}", view=view, category="c", metrics=metrics))
    return cases


def record(case: Case) -> CaseRecord:
    """Through JSON, as scores.json keeps it."""
    entry = {
        "scenario_id": case.scenario_id,
        "scene": case.scene,
        "view": case.view,
        "category": case.category,
        "score": case_score(case.metrics).score,
        "means": metric_means(case.metrics),
    }
    return read_record(json.loads(json.dumps(entry)))


def scores_of(cases: list[Case], weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    records = [record(case) for case in cases]
    scenes = sorted({case.scene for case in cases})
    weights = np.ones((1, len(scenes))) if weights is None else weights
    return original_scores(records, scenes, weights), verified_scores(records, scenes, weights)


@pytest.mark.parametrize("views", [VIEWS, VIEWS[:1]])
def test_recomputed_scores_equal_the_scorers(views: tuple[str, ...]) -> None:
    for seed in range(20):
        cases = random_cases(seed, views=views)
        original, verified = scores_of(cases)
        assert original[0] == original_score(cases)
        assert verified[0] == pytest.approx(verified_score(cases), abs=1e-9)


def test_scenes_with_missing_views() -> None:
    """Pooled frames and averaged views weigh such scenes differently."""
    cases = [case for number, case in enumerate(random_cases(3)) if number % 4]
    original, verified = scores_of(cases)
    assert original[0] == original_score(cases)
    assert verified[0] == pytest.approx(verified_score(cases), abs=1e-9)


def test_a_weight_is_a_scene_that_occurs_again() -> None:
    cases = random_cases(5, scenes=3)
    again = [
        replace(case, scene="s-3", scenario_id=f"9{case.scenario_id}")
        for case in cases
        if case.scene == "s-1"
    ]
    kept = [case for case in cases if case.scene != "s-2"]
    original, verified = scores_of(cases, np.array([[1.0, 2.0, 0.0], [1.0, 1.0, 1.0]]))
    assert original[0] == original_score([*kept, *again])
    assert verified[0] == pytest.approx(verified_score([*kept, *again]), abs=1e-9)
    assert original[1] == original_score(cases)


def test_nothing_to_divide_by() -> None:
    empty = PairMetrics(mse=(0.0,), spatiotemporal=(0.0,), spatial=0.0, weighted_spatial=0.0)
    case = replace(random_cases(0)[0], metrics=CaseMetrics(take1=empty, take2=empty, variance=empty))
    assert np.isnan(scores_of([case])[0][0]) and original_score([case]) is None


def test_contributions_find_the_best_dataset_score() -> None:
    """Of all 3^4 ways to choose one of three takes of four cases, the best by contribution scores highest."""
    takes = [random_cases(seed, scenes=4, views=VIEWS[:1]) for seed in (1, 2, 3)]
    variance = [case.metrics.variance for case in takes[0]]
    options = [
        [
            record(replace(case, metrics=replace(case.metrics, variance=v)))
            for case, v in zip(of, variance, strict=True)
        ]
        for of in takes
    ]
    scenes = sorted({case.scene for case in takes[0]})

    def score(choice: tuple[int, ...]) -> float:
        picked = [options[take][case] for case, take in enumerate(choice)]
        return float(original_scores(picked, scenes, np.ones((1, 4)))[0])

    value = original_contributions(options[0])
    best = tuple(max(range(3), key=lambda take, case=case: value(options[take][case])) for case in range(4))
    assert score(best) == max(score(choice) for choice in np.ndindex(3, 3, 3, 3))


def test_an_entry_of_another_version_is_refused() -> None:
    with pytest.raises(KeyError):
        read_record({"scenario_id": "a", "scene": "s", "view": "v", "category": "c", "score": 1.0})
