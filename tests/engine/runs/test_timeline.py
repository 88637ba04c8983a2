"""Totals by hand-computed cases, the timeline as well-formed SVG, and what is drawn of a long run."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from engine.runs.timeline import MOST_BARS, Timeline, totals
from engine.runs.trace import Span


def span(
    lane: str, start_s: float, end_s: float, scenario_id: str = "0001_left", name: str = "generate"
) -> Span:
    return Span(lane=lane, scenario_id=scenario_id, attempt=0, name=name, start_s=start_s, end_s=end_s)


SPANS = (
    span("generate", 0.0, 4.0),
    span("critique", 3.0, 6.0),
    span("encode", 3.5, 5.0),
    span("encode", 4.0, 7.0),
)


def test_totals() -> None:
    result = totals(SPANS)
    assert result.wall_s == 7.0
    assert result.busy_s == {"generate": 4.0, "critique": 3.0, "encode": 3.5}  # the encode lane's union
    assert result.overlap_share == pytest.approx(3.0 / 7.0)  # from 3 to 6
    serial = totals([span("generate", 1.0, 2.0), span("critique", 2.0, 4.0)])
    assert (serial.wall_s, serial.overlap_share) == (3.0, 0.0)
    assert totals([]).wall_s == 0.0


def test_timeline_has_a_bar_per_span_a_row_per_lane_and_escapes() -> None:
    spans = (*SPANS, span("generate", 5.0, 6.0, scenario_id='<script>"&'))
    svg = Timeline(spans, 800).svg()
    root = ElementTree.fromstring(svg)
    bars = [element for element in root if element.tag.endswith("rect")]
    assert root.attrib["width"] == "800" and len({bar.attrib["y"] for bar in bars}) == 3
    assert len({bar.attrib["fill"] for bar in bars}) == 2, "one colour per scenario"
    assert all(
        float(b.attrib["x"]) > 0 and float(b.attrib["x"]) + float(b.attrib["width"]) <= 800 for b in bars
    )
    assert "<script>" not in svg
    ElementTree.fromstring(Timeline((), 800).svg())


def test_timeline_merges_steps_narrower_than_a_pixel() -> None:
    tokens = [span("critique", i * 0.01, i * 0.01 + 0.009, name="critique") for i in range(5000)]
    root = ElementTree.fromstring(Timeline(tokens, 800).svg())
    bars = [element for element in root if element.tag.endswith("rect")]
    assert len(bars) == 1 and float(bars[0].attrib["width"]) == pytest.approx(720, abs=1)


def long_run(num_jobs: int, steps: int) -> Iterator[Span]:
    """Jobs of many steps, one after the other, as they settle."""
    for job in range(num_jobs):
        for step in range(steps):
            start_s = job * 10.0 + step * 0.1
            yield span("generate", start_s, start_s + 0.09, scenario_id=f"scene-{job}")


def test_a_long_run_is_drawn_with_no_more_bars_than_its_picture_has_pixels() -> None:
    timeline = Timeline(long_run(MOST_BARS + 1, 3), 800)
    root = ElementTree.fromstring(timeline.svg())
    bars = [element for element in root if element.tag.endswith("rect")]
    assert 300 < len(bars) <= 721
    ends = [float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in bars]
    assert min(float(bar.attrib["x"]) for bar in bars) == 70.0 and max(ends) == pytest.approx(790, abs=1)
    assert "more jobs" in (bars[0][0].text or "")
    assert timeline.totals().busy_s["generate"] == pytest.approx((MOST_BARS + 1) * 3 * 0.09)


def test_a_job_is_one_bar_however_many_steps_it_has() -> None:
    tracemalloc.start()
    timeline = Timeline(long_run(10, 5_000), 800)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000, "16 bytes a span, and its bars; the spans themselves are ten times that"
    root = ElementTree.fromstring(timeline.svg())
    assert len([element for element in root if element.tag.endswith("rect")]) == 10
