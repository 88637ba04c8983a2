"""What spans come to: latencies, the device's seconds, the overlap against its bound, two runs compared."""

from __future__ import annotations

from typing import Any

import pytest

from engine.runs.profile import compare, latencies, profile
from engine.runs.trace import Span


def span(
    lane: str, start_s: float, end_s: float, *, stage: str = "", scenario: str = "a", **more: Any
) -> Span:
    times = {"start_s": start_s, "end_s": end_s}
    return Span(lane=lane, scenario_id=scenario, attempt=0, name=lane, stage=stage, **times, **more)


def step(start_s: float, end_s: float, launch_s: float, **more: Any) -> Span:
    launch = {"launch_s": launch_s, "launched_s": launch_s + 0.25}
    return span("generate", start_s, end_s, stage="denoise step", **launch, **more)


RUN = (
    span("prefix", 0.0, 1.0),
    step(1.0, 2.0, 0.9),
    step(2.0, 4.0, 1.5),
    span("generate", 4.0, 5.0, stage="VAE pass", launch_s=3.0, launched_s=3.1),
    span("critique", 3.0, 8.0, stage="prefill", launch_s=3.0, launched_s=3.5),
    span("encode", 5.0, 6.0),
    span("store", 8.0, 10.0),
)


def test_latencies_by_lane_and_stage() -> None:
    rows = latencies(RUN)
    assert [(row.lane, row.stage, row.num) for row in rows] == [
        ("generate", "denoise step", 2),
        ("generate", "VAE pass", 1),
        ("critique", "prefill", 1),
        ("encode", "encode", 1),
        ("prefix", "prefix", 1),
        ("store", "store", 1),
    ]
    first = rows[0]
    assert (first.p50_s, first.total_s, first.share) == (1.5, 3.0, 0.75)
    assert first.p95_s == pytest.approx(1.95)
    assert latencies(()) == ()


def test_the_device_is_busy_while_any_of_its_lanes_is_and_the_host_stands_apart() -> None:
    found = profile(RUN)
    assert found.wall_s == 10.0 and found.num_scenarios == 1
    assert found.gpu_s == 7.0, "from 1 to 8, though both lanes work from 3 to 5"
    assert found.busy_s["generate"] == 4.0 and found.busy_s["store"] == 2.0
    assert found.launch_s == {"generate": 0.6, "critique": 0.5} or found.launch_s == pytest.approx(
        {"generate": 0.6, "critique": 0.5}
    )
    assert found.bound_s == 5.0 and found.alone_s == 4.0
    assert found.efficiency == 0.5 and found.efficiency_of_generation == 0.4
    assert found.lanes["generate"]["parts_s"]["working_s"] == 4.0


def test_the_bound_takes_each_step_as_long_as_the_fastest_at_its_place() -> None:
    slow = [step(10.0, 14.0, 9.0, scenario="b"), step(14.0, 18.0, 9.5, scenario="b")]
    found = profile([*RUN[1:3], *slow])
    assert found.alone_s == 2 * 1.0 + 2 * 2.0 and found.num_scenarios == 2
    assert found.lanes["generate"]["parts_s"]["slowed_s"] == 3.0 + 2.0


def test_nothing_is_divided_by_nothing() -> None:
    found = profile(())
    assert found.wall_s == found.efficiency == found.gpu_seconds_per_scenario == 0.0
    assert found.document()["latencies"] == ()


def test_a_scenario_that_has_not_ended_is_none_to_divide_by() -> None:
    """What it took so far counts, with those that have ended."""
    both = [*RUN, *(one._replace(scenario_id="b") for one in RUN[:2])]
    found = profile(both, {"b", "c"})
    assert (found.num_scenarios, found.num_unfinished) == (1, 1), "nobody worked on c"
    assert (found.seconds_per_scenario, found.gpu_seconds_per_scenario) == (10.0, 7.0)
    begun = profile(both, {"a", "b"})
    assert (begun.num_scenarios, begun.num_unfinished, begun.seconds_per_scenario) == (0, 2, 0.0)


def test_two_runs_differ_by_the_scenario_not_by_how_many_there_were() -> None:
    twice = [*RUN, *(one._replace(scenario_id="b") for one in RUN)]
    assert all(row.seconds_per_scenario == 0.0 for row in compare(profile(RUN), profile(twice)))
    slower = [*RUN[:4], span("critique", 3.0, 11.0, stage="prefill"), span("select", 12.0, 13.0)]
    rows = compare(profile(RUN), profile(slower))
    assert (rows[0].stage, rows[0].seconds_per_scenario, rows[0].p50_s) == ("prefill", 3.0, (5.0, 8.0))
    named = {row.stage: row for row in rows}
    assert named["select"].p50_s == (None, 1.0) and named["store"].seconds_per_scenario == -2.0
    assert named["denoise step"].per_scenario == (2.0, 2.0)
