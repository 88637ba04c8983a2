"""Spans: recording, the trace file, totals by hand-computed cases, the timeline as well-formed SVG."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from engine.runs.trace import CudaRecorder, HostRecorder, Span, timeline_svg, totals


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


def test_host_recorder_times_the_body_from_several_threads() -> None:
    recorder = HostRecorder(origin_s=10.0)

    def work() -> None:
        with recorder.span("encode", "0001_left", 2, "encode"):
            time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ValueError), recorder.span("generate", "0002_left", 0, "generate"):
        raise ValueError
    spans = recorder.spans()
    assert [s.lane for s in spans] == ["encode"] * 4 + ["generate"]
    assert all(0.015 < s.end_s - s.start_s < 1.0 and s.attempt == 2 for s in spans[:4])
    assert 10.0 <= spans[0].start_s < 11.0


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
    svg = timeline_svg(spans, 800)
    root = ElementTree.fromstring(svg)
    bars = [element for element in root if element.tag.endswith("rect")]
    assert root.attrib["width"] == "800" and len({bar.attrib["y"] for bar in bars}) == 3
    assert len({bar.attrib["fill"] for bar in bars}) == 2, "one colour per scenario"
    assert all(
        float(b.attrib["x"]) > 0 and float(b.attrib["x"]) + float(b.attrib["width"]) <= 800 for b in bars
    )
    assert "<script>" not in svg
    ElementTree.fromstring(timeline_svg((), 800))


def test_timeline_merges_steps_narrower_than_a_pixel() -> None:
    tokens = [span("critique", i * 0.01, i * 0.01 + 0.009, name="critique") for i in range(5000)]
    root = ElementTree.fromstring(timeline_svg(tokens, 800))
    bars = [element for element in root if element.tag.endswith("rect")]
    assert len(bars) == 1 and float(bars[0].attrib["width"]) == pytest.approx(720, abs=1)


@pytest.mark.gpu
def test_cuda_recorder_places_device_work_on_the_host_clock() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    recorder = CudaRecorder()
    size = torch.randn(4096, 4096, device="cuda")
    began_s = time.perf_counter()
    for step in range(1200):
        with recorder.span("generate", "0001_left", step, "generate"):
            size @ size
    with recorder.span("encode", "0001_left", 0, "encode"):
        time.sleep(0.01)
    spans = recorder.spans()
    seconds = time.perf_counter() - began_s
    device = [s for s in spans if s.lane == "generate"]
    assert len(device) == 1200 and all(s.end_s > s.start_s >= 0 for s in device)
    assert all(before.end_s <= after.start_s + 1e-5 for before, after in pairwise(device))
    assert device[-1].end_s <= seconds + 0.5
    assert all(0 <= s.launch_s <= s.launched_s and s.launch_s <= s.start_s + 1e-3 for s in device)
