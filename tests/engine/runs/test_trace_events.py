"""Spans as Perfetto draws them: a track for each lane and scenario, in which nothing overlaps."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from engine.loop import lanes
from engine.runs.trace import AROUND, HOST_LANES, PREFIX, RESULT, Span
from engine.runs.trace_events import Tracks, events


def span(lane: str, scenario: str, start_s: float, end_s: float, **more: Any) -> Span:
    return Span(lane=lane, scenario_id=scenario, attempt=0, name=lane, start_s=start_s, end_s=end_s, **more)


def drawn(spans: list[Span], tracks: Tracks | None = None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in events(spans, tracks or Tracks())]


def test_a_track_for_each_lane_and_scenario_and_no_number_twice() -> None:
    spans = [span(lane, name, 0.0, 1.0) for lane in ("generate", "critique", "odd") for name in ("a", "b")]
    found = drawn([*spans, span("generate", "a", 1.0, 2.0, launch_s=0.5, launched_s=0.6)])
    slices = [event for event in found if event["ph"] == "X"]
    places = {(event["pid"], event["tid"]) for event in slices}
    assert len(places) == 7 and len({tid for _, tid in places}) == 7
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in found if event["ph"] == "M"}
    assert names.keys() == places | {(pid, 0) for pid, _ in places}
    assert {names[pid, 0] for pid, _ in places} == {
        "generate (device)",
        "generate (launches)",
        "critique (device)",
        "odd (device)",
    }


def test_what_the_rounding_of_a_clock_makes_overlap_is_cut() -> None:
    found = drawn([span("generate", "a", 0.0, 1.0003), span("generate", "a", 1.0, 2.0)])
    first, second = (event for event in found if event["ph"] == "X")
    assert first["ts"] + first["dur"] == second["ts"] and second["ts"] + second["dur"] == 2e6
    assert second["args"]["start_s"] == 1.0, "the span itself is kept as it was"


def test_a_stage_is_the_name_of_its_slice() -> None:
    found = drawn([span("generate", "a", 0.0, 1.0, stage="denoise step"), span("encode", "a", 0.0, 1.0)])
    assert [event["name"] for event in found if event["ph"] == "X"] == ["denoise step", "encode"]


def test_another_process_draws_on_the_same_tracks() -> None:
    by_process = defaultdict(set)
    for process in range(2):
        for event in drawn([span("critique", "a", process, process + 1.0)]):
            by_process[process].add((event["pid"], event["tid"]))
    assert by_process[0] == by_process[1]


def test_the_lanes_know_the_names_of_the_work_around_them() -> None:
    assert {lanes.PREFIX, lanes.RESULT} == {PREFIX, RESULT} <= set(AROUND) <= HOST_LANES
