"""Time left: the mean so far, and an interval that holds what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.runs.pace import Left, Pace


def after(*ends_s: float) -> Pace:
    pace = Pace()
    for at_s in ends_s:
        pace.ended(at_s)
    return pace


def test_nothing_is_known_before_the_first_end_and_no_interval_before_the_third() -> None:
    assert Pace().left(5) is None
    assert after(10).left(5) == Left(seconds=50, low=None, high=None)
    assert after(10, 30).left(4) == Left(seconds=60, low=None, high=None)


def test_scenarios_of_one_length_leave_no_doubt() -> None:
    assert after(10, 20, 30).left(2) == Left(seconds=20, low=20, high=20)
    assert after(10, 20, 30).left(0) == Left(seconds=0, low=None, high=None)


def test_the_interval_is_that_of_a_sum() -> None:
    """By the formula, with the table's 97.5 % point of t with 3 degrees, 3.182."""
    found = after(8, 20, 30, 40).left(6)
    spread = np.std([8, 12, 10, 10], ddof=1)
    half = 3.182 * spread * 6 * math.sqrt(1 / 6 + 1 / 4)
    assert found is not None and found.seconds == 60
    assert (found.low, found.high) == pytest.approx((60 - half, 60 + half), rel=0.005)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(30, 4, size=(1000, 20))
    held = 0
    for gaps in draws:
        found = after(*np.cumsum(gaps[:8])).left(12)
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= gaps[8:].sum() <= found.high
    assert 0.93 < held / len(draws) < 0.97
