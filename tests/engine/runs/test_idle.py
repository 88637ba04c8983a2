"""Each second of a lane has one cause, and together they are the whole run."""

from __future__ import annotations

import pytest

from engine.runs.idle import idle
from engine.runs.trace import Span


def step(attempt: int, start_s: float, end_s: float, launch_s: float, lane: str = "generate") -> Span:
    return Span(
        lane=lane,
        scenario_id="clip00",
        attempt=attempt,
        name=lane,
        start_s=start_s,
        end_s=end_s,
        launch_s=launch_s,
        launched_s=launch_s + 0.1,
    )


TRACE = (
    step(0, 1.0, 3.0, 0.5),
    step(0, 3.0, 4.0, 2.0),  # launched ahead: no wait
    step(1, 7.0, 10.0, 6.5),  # nobody launched it until 6.5, then the device had not begun it
    step(1, 12.0, 13.0, 12.0),  # the host was late
    step(0, 4.0, 6.0, 4.0, lane="critique"),
    step(1, 30.0, 31.0, 30.0),  # of a scenario that did not end
)


def test_every_second_has_one_cause() -> None:
    found = idle(TRACE, "generate", 15.0)
    assert found["parts_s"] == {
        "working_s": 2 * 2.0 + 2 * 1.0,
        "slowed_s": 1.0,
        "no_job_s": 2.5,
        "not_launched_s": 2.0,
        "not_started_s": 0.5,
        "before_first_s": 1.0,
        "after_last_s": 2.0,
    }
    assert sum(found["parts_s"].values()) == found["makespan_s"] == 15.0
    assert (found["step_s"], found["num_jobs"]) == ([2.5, 1.0], 2)


def test_waits_are_told_with_what_went_on_meanwhile() -> None:
    first, second, third = idle(TRACE, "generate", 15.0)["longest_waits"]
    assert first == {
        "at_s": 4.0,
        "seconds": 2.5,
        "cause": "no_job",
        "meanwhile_s": {"critique: critique clip00 0": 2.0},
    }
    assert (second["cause"], second["meanwhile_s"]) == ("not_launched", {})
    assert (third["cause"], third["seconds"]) == ("not_started", 0.5)


def test_where_launches_were_not_noted_the_host_was_late() -> None:
    bare = [span._replace(launch_s=None, launched_s=None) for span in TRACE]
    parts = idle(bare, "generate", 15.0)["parts_s"]
    assert (parts["no_job_s"], parts["not_launched_s"], parts["not_started_s"]) == (3.0, 2.0, 0.0)


@pytest.mark.parametrize("spans", [(), TRACE[4:5]])
def test_a_lane_that_did_nothing_has_no_analysis(spans: tuple[Span, ...]) -> None:
    assert idle(spans, "generate", 15.0) == {}
