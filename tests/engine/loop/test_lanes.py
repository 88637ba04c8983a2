"""A lane by itself: how much is in flight, whose thread works, and that errors stay with their task."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fake_run import FakeJob, Quiet

from engine.loop.lanes import CRITIQUE, ENCODE, GENERATE, LANE_JOBS, STEPS_IN_FLIGHT, Lane, Task, make_lanes
from engine.machine.streams import HostPool
from engine.protocols import Fence
from engine.runs.trace import HostRecorder


class Pending:
    """A fence that is done when it is told."""

    over = False

    def done(self) -> bool:
        return self.over

    def wait(self) -> None:
        self.over = True


class ManualJob(FakeJob):
    """Its fences are done when the test says so."""

    def __init__(self, steps: int) -> None:
        super().__init__("made", steps)
        self.fences: list[Pending] = []

    def launch(self) -> Fence:
        super().launch()
        self.fences.append(Pending())
        return self.fences[-1]


def lane(name: str = GENERATE, **given: Any) -> Lane:
    return Lane(name, recorder=HostRecorder(), progress=given.pop("progress", Quiet()), **given)


def task(start: Any, name: str = GENERATE) -> Task[Any]:
    return Task(lane=name, name="generate", scenario_id="0001", attempt=0, start=start)


def test_two_steps_are_in_flight_and_no_more() -> None:
    job, progress = ManualJob(4), Quiet()
    made, one = lane(progress=progress), task(lambda: job)
    made.admit(one)
    assert [made.launch() for _ in range(4)] == [True, True, False, False]
    assert len(one.fences) == STEPS_IN_FLIGHT == 2 and progress.last[GENERATE, "0001"] == (2, 4)
    job.fences[0].over = True
    assert made.retire() == ([], True) and made.launch()
    assert made.retire() == ([], False), "nothing ended"
    for _ in range(3):
        for fence in job.fences:
            fence.over = True
        ended, _ = made.retire()
        made.launch()
    assert ended == [] and not made.active and one.over and one.claim() == "made"


def test_a_task_forgets_what_started_it_and_its_claimed_result() -> None:
    one = task(lambda: FakeJob("frames", 1, late=False))
    made = lane()
    made.admit(one)
    assert one.start is None
    made.launch()
    assert made.retire() == ([one], True)
    assert one.claim() == "frames" and one.result is None and one.job is None
    with pytest.raises(AssertionError, match="no result"):
        one.claim()


@pytest.mark.parametrize("where", ["start", "launch", "result", "fence"])
def test_an_error_stays_with_its_task(where: str) -> None:
    error = ValueError("broken")

    def broken(*given: object) -> Any:
        raise error

    job = FakeJob("x", 1, late=False)
    fence = Pending()
    if where == "launch":
        job.launch = broken  # type: ignore[method-assign]
    if where == "result":
        job.result = broken  # type: ignore[method-assign]
    if where == "fence":
        fence.done = broken  # type: ignore[method-assign]
        job.launch = lambda: setattr(job, "steps_left", 0) or fence  # type: ignore[assignment, method-assign, func-returns-value]
    one, other = task(broken if where == "start" else lambda: job), task(lambda: FakeJob("y", 1, late=False))
    made = lane()
    made.admit(one)
    made.admit(other)
    made.launch()
    ended, _ = made.retire()
    assert set(ended) == {one, other} and one.error is error and not one.over
    assert other.error is None and other.claim() == "y"


def test_waiting_on_a_broken_device_is_the_tasks_error() -> None:
    one, made = task(lambda: ManualJob(1)), lane()
    made.admit(one)
    made.launch()
    one.fences[0].wait = lambda: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    made.wait(one)
    assert isinstance(one.error, ZeroDivisionError) and made.retire() == ([one], True)


def test_host_work_runs_on_a_thread_inside_the_lanes_context() -> None:
    seen: list[tuple[str, str]] = []

    @contextmanager
    def on_lane(name: str) -> Iterator[None]:
        seen.append((name, threading.current_thread().name))
        yield

    def work() -> str:
        return threading.current_thread().name

    with HostPool(1) as host:
        made = lane(ENCODE, host=host, on_lane=on_lane)
        one = task(work, ENCODE)
        made.admit(one)
        made.launch()
        one.fences[0].wait()
        assert made.retire()[0] == [one]
    assert one.claim().startswith("retake-host") and (ENCODE, "retake-host_0") in seen


def test_a_dropped_scenario_leaves_its_neighbour() -> None:
    made, one = lane(ENCODE), task(lambda: FakeJob("x", 1, late=False), ENCODE)
    other = Task(lane=ENCODE, name="encode", scenario_id="0002", attempt=0, start=lambda: FakeJob("y", 1))
    made.admit(one)
    made.admit(other)
    assert not made.has_room
    made.drop("0001")
    assert made.active == [other] and made.has_room


def test_lanes_are_served_in_one_order_and_only_host_lanes_have_threads() -> None:
    with HostPool(1) as host:
        lanes = make_lanes(host=host, recorder=HostRecorder(), progress=Quiet())
    assert [made.name for made in lanes] == list(LANE_JOBS) and lanes[1].name == CRITIQUE
    assert [made.name for made in lanes if made._host is not None] == ["encode", "select"]
