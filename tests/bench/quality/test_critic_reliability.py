"""What a critic's score is worth, by hand; and the diagram of it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.quality.critic_reliability import StatedTake, calibrated, reliability
from bench.results_page.reliability import reliability_plot
from engine.demo.training.critic_text import ACCEPT_CASE_SCORE
from engine.types import Verdict


def take(scene: str, stated: float | None, case_score: float, *, accepted: bool = False) -> StatedTake:
    verdict = Verdict.ACCEPT if accepted else Verdict.REVISE
    verdict = Verdict.UNREADABLE if stated is None else verdict
    return StatedTake(scene=scene, stated=stated, verdict=verdict, case_score=case_score)


GOOD, BAD = ACCEPT_CASE_SCORE + 1, ACCEPT_CASE_SCORE - 1
SURELY_GOOD, SURELY_BAD = ACCEPT_CASE_SCORE + 20, ACCEPT_CASE_SCORE - 20


def test_bins_and_calibration_error() -> None:
    takes = [take("a", 82.0, GOOD), take("b", 88.0, BAD), take("c", 20.0, BAD), take("d", 100.0, GOOD)]
    found = reliability([*takes, take("e", None, BAD)])
    assert [(one["from"], one["num"], one["stated"], one["acceptable"]) for one in found["bins"]] == [
        (20.0, 1, 20.0, 0.0),
        (80.0, 2, 85.0, 50.0),
        (90.0, 1, 100.0, 100.0),
    ]
    assert found["calibration_error"] == pytest.approx((20.0 + 2 * 35.0 + 0.0) / 4)
    assert (found["num"], found["num_acceptable"], found["threshold"]) == (5, 2, ACCEPT_CASE_SCORE)


def test_accuracy_weighs_both_kinds_and_an_unreadable_reply_is_wrong() -> None:
    takes = [
        take("a", 90.0, SURELY_GOOD, accepted=True),
        take("b", 30.0, SURELY_BAD),
        take("c", 30.0, SURELY_BAD),
        take("d", None, SURELY_BAD),
        take("e", 90.0, BAD, accepted=True),
    ]
    found = reliability(takes)
    assert found["balanced_accuracy"] == pytest.approx((1.0 + 2 / 4) / 2)
    assert found["balanced_accuracy_sure"] == pytest.approx((1.0 + 2 / 3) / 2)
    assert reliability(takes[1:])["balanced_accuracy"] is None, "no take is acceptable"


def test_correlation_is_of_differences_within_a_scene() -> None:
    level = [take("a", 10.0 + s, 40.0 + 2 * s) for s in (0.0, 5.0, 9.0)]
    other = [take("b", 90.0 + s, 10.0 + 2 * s) for s in (0.0, 2.0, 7.0)]  # higher stated, lower scored
    assert reliability([*level, *other])["within_scene"] == pytest.approx(1.0)
    assert reliability([take("a", s, 50.0 - s) for s in (1.0, 2.0, 4.0)])["within_scene"] == pytest.approx(-1)
    assert reliability(level[:2])["within_scene"] is None, "too few"
    assert reliability([take("a", 5.0, s) for s in (1.0, 2.0, 4.0)])["within_scene"] is None, "no difference"


def test_the_diagram_has_a_point_a_bin_at_its_place() -> None:
    takes = [take("a", 20.0, BAD), take("b", 80.0, GOOD), take("c", 80.0, GOOD), take("d", 80.0, BAD)]
    (name, picture), *none = reliability_plot("demo_quality", reliability(takes)).items()
    assert name == "reliability-demo-quality.svg" and not none
    circles = [e for e in ElementTree.fromstring(picture).iter() if e.tag.endswith("circle")]
    low, high = ([float(circle.attrib[key]) for key in ("cx", "cy", "r")] for circle in circles)
    assert low[0] < high[0] and low[1] > high[1] and low[2] < high[2], "further right, higher, larger"
    assert reliability_plot("x", {}) == {}


def test_calibrated_scores_are_the_probabilities_of_their_tenth() -> None:
    takes = [take("a", 82.0, GOOD), take("b", 100.0, BAD), take("c", None, BAD)]
    shares = (*(0.0,) * 8, 0.5, 0.9, 0.25)
    found = calibrated(takes, shares)
    assert [one.stated for one in found] == [50.0, 25.0, None]
    assert [one.verdict for one in found] == [one.verdict for one in takes]
    assert reliability(found)["calibration_error"] == pytest.approx((50.0 + 25.0) / 2)
