"""The charts: statistics against published values, geometry, and that no label becomes markup."""

from __future__ import annotations

import re
import statistics
from xml.etree import ElementTree

import pytest

from engine.report.charts import Estimate, Series, bar_chart, counts_chart, estimate, line_chart


def point(mean: float, half: float | None = None) -> Estimate:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Estimate(mean=mean, low=low, high=high, n=9)


def attributes(svg: str, tag: str, css: str) -> list[dict[str, str]]:
    return [
        e.attrib for e in ElementTree.fromstring(svg).iter(tag) if css in e.attrib.get("class", "").split()
    ]


def test_interval_is_students() -> None:
    # n = 6, sample deviation 1: the half width is t(0.975, 5) / sqrt(6) = 2.5706 / 2.4495.
    values = [-1.0, 1.0, -1.0, 1.0, -(0.5**0.5), 0.5**0.5]
    scale = (sum(v * v for v in values) / 5) ** 0.5
    found = estimate([v / scale for v in values])
    assert found is not None and found.high is not None and found.low is not None
    assert found.mean == pytest.approx(0.0, abs=1e-12)
    assert found.high == pytest.approx(2.5706 / 6**0.5, rel=0.002)
    assert found.low == pytest.approx(-found.high)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [
        (2, 4.302652730),
        (3, 3.182446305),
        (6, 2.446911851),
        (7, 2.364624252),
        (10, 2.228138852),
        (30, 2.042272456),
    ],
)
def test_points_of_students_t(freedom: int, expected: float) -> None:
    """Those of scipy.stats.t.ppf(0.975, freedom), scipy 1.17.1."""
    values = [float(value) for value in range(freedom + 1)]
    found = estimate(values)
    assert found is not None and found.high is not None
    half = expected * statistics.stdev(values) / len(values) ** 0.5
    assert found.high - found.mean == pytest.approx(half, rel=5e-4)


def test_estimate_of_few_values() -> None:
    assert estimate([]) is None
    two = estimate([1.0, 3.0])
    assert two is not None and (two.mean, two.low, two.high, two.n) == (2.0, None, None, 2)


def test_lines_rise_with_the_score_and_skip_missing_points() -> None:
    line = Series(name="a", css="first", points=(point(10, 5), None, point(60, 5)))
    svg = line_chart(["0", "1", "2"], [line], title="t")
    low, high = attributes(svg, "circle", "dot")
    assert float(low["cy"]) > float(high["cy"])
    assert len(attributes(svg, "line", "whisker")) == 6


def test_whiskers_stay_inside_the_plot() -> None:
    line = Series(name="a", css="first", points=(point(2, 40), point(97, 60)))
    for whisker in attributes(line_chart(["0", "1"], [line], title="t"), "line", "whisker"):
        assert 0 <= float(whisker["y1"]) <= 300 and 0 <= float(whisker["y2"]) <= 300


def test_the_axis_of_one_value_has_marks_that_differ() -> None:
    """As of a run that has just stored its first take."""
    svg = line_chart(["0"], [Series(name="a", css="first", points=(point(80),))], title="t")
    marks = re.findall(r'text-anchor="end">([^<]*)<', svg)
    assert len(set(marks)) == len(marks) >= 2 and "80" in marks


def test_names_of_equal_lines_do_not_cover_each_other() -> None:
    lines = [Series(name=name, css="first", points=(point(50),)) for name in ("a", "b", "c")]
    heights = sorted(float(e["y"]) for e in attributes(line_chart(["0"], lines, title="t"), "text", "name"))
    assert heights[1] - heights[0] >= 15.9 and heights[2] - heights[1] >= 15.9


def test_bars_are_proportional() -> None:
    svg = counts_chart([("accepted", 6), ("loops", 3), ("failed", 0)], title="t", css="neutral")
    six, three, zero = (float(bar["width"]) for bar in attributes(svg, "rect", "bar"))
    assert six == pytest.approx(2 * three, abs=0.11) and zero == 0


def test_negative_and_all_zero_values_draw() -> None:
    bars = Series(name="a", css="first", points=(point(-3.0), point(0.0)))
    widths = [
        float(bar["width"]) for bar in attributes(bar_chart(["x", "y"], [bars], title="t"), "rect", "bar")
    ]
    assert widths == [0.0, 0.0]
    line_chart(["0"], [Series(name="a", css="first", points=(point(0.0),))], title="t")


def test_charts_without_values_say_so() -> None:
    nothing = Series(name="a", css="first", points=(None,))
    assert "No values" in line_chart(["0"], [nothing], title="t")
    assert "No values" in bar_chart(["x"], [nothing], title="t")


def test_labels_are_escaped_and_the_chart_is_described() -> None:
    bars = Series(name='<b>&"', css="first", points=(point(3),))
    svg = bar_chart(['<script>"'], [bars], title="a & b")
    assert "<script" not in svg and "<b>" not in svg
    label = ElementTree.fromstring(svg).attrib["aria-label"]
    assert label.startswith("a & b") and re.search(r'<script>" 3\.0', label)
