"""What a run cost, on its page: seconds, points for a minute of the device, memory; or nothing to tell."""

from __future__ import annotations

import pytest

from engine.report.charts import Estimate
from engine.report.performance import performance, planned_parts, points_per_minute
from engine.runs.profile import Tally
from engine.runs.timeline import Totals
from engine.runs.trace import Span

TOTALS = Totals(wall_s=100.0, busy_s={}, overlap_share=0.0)
GIB = 2**30


def tally(*stages: str) -> Tally:
    made = Tally()
    spans = [
        Span(
            lane="generate",
            scenario_id=f"{index % 2}",
            attempt=0,
            name="generate",
            stage=stage,
            start_s=10.0 * index,
            end_s=10.0 * index + 6.0,
        )
        for index, stage in enumerate(stages)
    ]
    assert list(made.watching(spans)) == spans
    return made


def estimate(mean: float, n: int) -> Estimate:
    return Estimate(mean=mean, low=None, high=None, n=n)


def test_points_are_of_all_scenarios_for_a_minute_of_the_device() -> None:
    assert points_per_minute(estimate(5.0, 4), 120.0) == 10.0
    assert points_per_minute(None, 120.0) is None and points_per_minute(estimate(5.0, 4), 0.0) is None


def test_the_page_says_what_a_scenario_took() -> None:
    html = performance(tally("denoise step", "VAE pass"), TOTALS, estimate(-1.5, 2), {})
    assert html is not None
    assert "<dd>50.00 s</dd>" in html and "<dd>6.00 s</dd>" in html
    assert "<dd>−15.00</dd>" in html, "12 s of the device for 3 points less"
    assert "<td>denoise step</td>" in html and "Memory" not in html


def test_the_seconds_of_a_scenario_are_of_those_that_ended() -> None:
    worked = tally("denoise step", "VAE pass")  # on the scenarios 0 and 1
    one = performance(worked, TOTALS, None, {}, {"1"})
    assert one is not None and "<dd>1.7 min</dd>" in one and "<dd>12.00 s</dd>" in one
    none = performance(worked, TOTALS, None, {}, {"0", "1"})
    assert none is not None and "<dd>none has ended</dd>" in none and "1.7 min" not in none


def test_measured_memory_stands_beside_the_plan_and_what_ran_out_is_told() -> None:
    part = {"part": "generator lane", "planned_bytes": 4 * GIB, "measured_bytes": 5 * GIB, "error": -0.2}
    used = {"memory_used": [{"relieved": ["smaller <passes>"]}, {"parts": [part]}]}
    html = performance(tally("x"), TOTALS, None, used)
    assert html is not None
    assert "4.00 GiB" in html and "5.00 GiB" in html and "−20 %" in html
    assert "ran out of memory: smaller &lt;passes&gt;" in html


@pytest.mark.parametrize("memory", [None, [["part", "weights", "activations"]]])
def test_manifests_of_earlier_versions_have_no_memory_to_tell(memory: object) -> None:
    assert planned_parts({"memory": memory}) == []


def test_without_a_measurement_the_plan_is_told() -> None:
    part = {"held": {"model": GIB}, "working": {"step": 2 * GIB}}
    manifest = {"memory": {"parts": {"critic": part}, "peak_bytes": 3 * GIB}}
    assert [row["part"] for row in planned_parts(manifest)] == ["critic: model", "critic: step", "peak"]
    html = performance(tally("x"), TOTALS, None, manifest)
    assert html is not None and "2.00 GiB" in html


def test_without_a_trace_there_is_nothing_to_tell() -> None:
    assert performance(None, None, None, {}) is None
    assert performance(Tally(), TOTALS, None, {}) is None
