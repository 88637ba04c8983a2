"""Intervals by hand: paired differences, shares and figures that are no means, resampling whole scenes."""

from __future__ import annotations

import numpy as np
import pytest

from bench.analysis.bootstrap import Floats, balanced_ci95, mean_ci95, ratio_ci95, statistic_ci95

SCENES = [str(index) for index in range(200)]


def test_a_statistic_that_is_a_mean_equals_the_mean() -> None:
    values = np.random.default_rng(0).normal(10.0, 3.0, 200)

    def mean(weights: Floats) -> Floats:
        return np.asarray(weights @ values / weights.sum(axis=1))

    names = sorted(SCENES)
    expected = mean_ci95(list(values), names)
    found = statistic_ci95(mean, len(values))
    assert found["mean"] == pytest.approx(expected["mean"])
    assert found["ci95"] == pytest.approx(expected["ci95"])


def test_equal_to_scipy() -> None:
    """scipy.stats.bootstrap (1.17.1) of the scenes' sums and counts: paired, percentile, rng of seed 0."""
    values = [float(index * index % 17) for index in range(60)]
    bounds = [float(index % 5) for index in range(60)]
    scenes = [str(index // 3) for index in range(60)]
    assert mean_ci95(values, scenes)["ci95"] == pytest.approx([6.132916666666671, 9.583749999999995])
    share = ratio_ci95(values, bounds, scenes)["ci95"]
    assert share == pytest.approx([3.069209401709402, 4.92108666061706])


def test_a_statistic_that_does_not_exist() -> None:
    assert statistic_ci95(lambda weights: np.full(len(weights), np.nan), 5) == {"mean": None, "ci95": None}
    partly = statistic_ci95(lambda weights: np.where(weights[:, 0] > 1, np.nan, 7.0), 5)
    assert partly == {"mean": 7.0, "ci95": [7.0, 7.0]}


def test_kinds_weigh_the_same_however_often_they_occur() -> None:
    hits, kinds = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0], ["a", "a", "b", "b", "b", "b"]
    found = balanced_ci95(hits, kinds, ["x", "y", "x", "x", "y", "y"])
    assert found["mean"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert found["ci95"] == pytest.approx([(0 + 1 / 2) / 2, 1.0]), "of y alone, of x alone"
    values = list(np.random.default_rng(2).normal(size=200))
    alone, plain = balanced_ci95(values, ["a"] * 200, SCENES), mean_ci95(values, SCENES)
    assert alone["mean"] == pytest.approx(plain["mean"]) and alone["ci95"] == pytest.approx(plain["ci95"])


def test_resamples_that_lack_a_kind_are_left_out() -> None:
    found = balanced_ci95([1.0, 0.0], ["a", "b"], ["x", "y"])
    assert found == {"mean": 0.5, "ci95": [0.5, 0.5]}


def test_a_constant_share_has_no_width() -> None:
    bounds = np.random.default_rng(1).uniform(0, 10, 200)
    found = ratio_ci95(list(0.6 * bounds), list(bounds), SCENES)
    assert found["value"] == pytest.approx(0.6)
    assert found["ci95"] == pytest.approx([0.6, 0.6])


def test_a_share_by_hand() -> None:
    """Half of the scenes reach all of a gain of 2, the others nothing: 0.5 +- 1.96 * 0.5 / sqrt(n)."""
    gains = [2.0 * (index % 2) for index in range(200)]
    found = ratio_ci95(gains, [2.0] * 200, SCENES)
    half = 1.96 * 0.5 / np.sqrt(200)
    assert found["value"] == 0.5
    assert found["ci95"] == pytest.approx([0.5 - half, 0.5 + half], abs=0.006)


def test_a_share_of_nothing_is_null_and_negative_bounds_are_a_mistake() -> None:
    assert ratio_ci95([0.0, 0.0], [0.0, 0.0], ["a", "b"]) == {"value": None, "ci95": None}
    rare = ratio_ci95([1.0, 0.0], [1.0, 0.0], ["a", "b"])  # a quarter of the resamples have no gain at all
    assert rare == {"value": 1.0, "ci95": [1.0, 1.0]}
    with pytest.raises(AssertionError, match="denominator"):
        ratio_ci95([1.0], [-1.0], ["a"])


def test_views_of_a_scene_stay_together() -> None:
    values = list(np.random.default_rng(2).normal(size=50))
    alone = mean_ci95(values, SCENES[:50])["ci95"]
    tripled = mean_ci95(
        [value for value in values for _ in range(3)], [s for s in SCENES[:50] for _ in "abc"]
    )
    assert tripled["ci95"] == pytest.approx(alone)
