"""A lane by itself: how much is in flight, whose thread works, and that errors stay with their task."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from fake_run import FakeJob, Quiet

from engine.errors import DoesNotFit
from engine.loop.lanes import (
    CRITIQUE,
    ENCODE,
    GENERATE,
    HOST_LANES,
    LANE_JOBS,
    MEMORY_TRIES,
    STEPS_IN_FLIGHT,
    Lane,
    Task,
    Threads,
    make_lanes,
)
from engine.machine.streams import HostPool, HostThread
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
    made.launch()
    assert made.retire() == ([one], True)
    assert one.start is None and one.job is None
    assert one.claim() == "frames" and one.result is None
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
    made = lane(width=2)
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


class SlowJob(FakeJob):
    """Its calls end when the test says so; it notes the threads that called it."""

    def __init__(self, steps: int) -> None:
        super().__init__("made", steps, late=False)
        self.may_go, self.callers = threading.Semaphore(0), set[str]()

    def launch(self) -> Fence:
        assert self.may_go.acquire(timeout=10)
        self.callers.add(threading.current_thread().name)
        return super().launch()

    def result(self) -> object:
        assert self.may_go.acquire(timeout=10)
        self.callers.add(threading.current_thread().name)
        return super().result()


def settle(made: Lane, one: Task[Any]) -> list[Task[Any]]:
    """Wait for what is called of `one`, unless it is collected already."""
    if one.call is not None:
        made.wait(one)
    return made.retire()[0]


def test_a_slow_launch_or_result_holds_up_nobody() -> None:
    job = SlowJob(2)
    one = task(lambda: job)
    with HostThread("generate") as thread:
        made = lane(threads=Threads(of={GENERATE: thread}))
        made.admit(one)
        assert not made.has_room and settle(made, one) == []
        assert made.launch(), "the step was handed over, and is not over"
        assert made.retire() == ([], False) and not made.launch() and not one.fences
        job.may_go.release()
        settle(made, one)
        made.launch()
        job.may_go.release()
        assert settle(made, one) == [] and one.call is not None, "the result is asked for"
        assert made.retire() == ([], False) and not one.over
        job.may_go.release()
        assert settle(made, one) == [one] and one.claim() == "made"
    assert {name.split("_")[0] for name in job.callers} == {"retake-generate"}


@pytest.mark.parametrize("where", ["start", "launch", "result"])
def test_an_error_on_a_lanes_thread_is_the_tasks(where: str) -> None:
    job = FakeJob("x", 1, ValueError("broken") if where == "launch" else None, late=False)
    if where == "result":
        job.result = lambda: 1 // 0  # type: ignore[method-assign]
    one = task((lambda: 1 // 0) if where == "start" else lambda: job)
    with HostThread("generate") as thread:
        made = lane(threads=Threads(of={GENERATE: thread}))
        made.admit(one)
        ended = settle(made, one)
        while not ended:
            made.launch()
            ended = settle(made, one)
    assert ended == [one] and type(one.error) is (ValueError if where == "launch" else ZeroDivisionError)


def test_the_next_task_starts_while_one_runs_and_waits_its_turn() -> None:
    started: list[str] = []

    def starting(name: str) -> FakeJob:
        started.append(name)
        return FakeJob(name, 1, late=False)

    first, second = task(partial(starting, "first")), task(partial(starting, "second"))
    with HostThread("generate") as thread, HostThread("start") as starts:
        made = lane(threads=Threads(of={GENERATE: thread}, starts=starts))
        for one in (first, second):
            assert made.has_room
            made.admit(one)
            settle(made, one)
        assert not made.has_room and started == ["first", "second"]
        for one in (first, second):
            assert second.num_launched == 0, "one at a time runs"
            while not one.over:
                made.launch()
                settle(made, one)
        assert (first.claim(), second.claim()) == ("first", "second")


def test_the_next_task_is_launched_behind_the_last_step_of_the_one_before() -> None:
    jobs = [ManualJob(2), ManualJob(2)]
    first, second = (task(lambda job=job: job) for job in jobs)
    with HostThread("generate") as thread, HostThread("start") as starts:
        made = lane(threads=Threads(of={GENERATE: thread}, starts=starts))
        for one in (first, second):
            made.admit(one)
            settle(made, one)
        made.launch()
        settle(made, first)
        assert (first.num_launched, second.num_launched) == (1, 0), "the first has a step to launch"
        for _ in range(2):
            made.launch()
            settle(made, first)
            settle(made, second)
        assert (first.num_launched, second.num_launched) == (2, 1) and len(first.fences) == 2
        for fence in jobs[0].fences:
            fence.over = True
        made.retire()
        assert settle(made, first) == [first] and first.claim() == "made" and made.active == [second]


class OutOfMemoryError(RuntimeError):
    """As torch's: known by its name."""


def hungry(num_failing: int) -> Any:
    """Starts a job that finds no memory so many times."""
    left = [num_failing]

    def start() -> FakeJob:
        left[0] -= 1
        error = OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB") if left[0] >= 0 else None
        return FakeJob("made", 2, error, late=False)

    return start


def run_out(made: Lane) -> list[Task[Any]]:
    ended: list[Task[Any]] = []
    while made.active:
        made.launch()
        ended += made.retire()[0]
    return ended


def test_where_memory_is_short_a_lane_runs_fewer_jobs_and_nothing_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released: list[str] = []
    made = lane(CRITIQUE, width=3, threads=Threads(release=lambda: released.append("caches")))
    tasks = [task(hungry(0), CRITIQUE), task(hungry(1), CRITIQUE), task(hungry(0), CRITIQUE)]
    for one in tasks:
        made.admit(one)
    ended = run_out(made)
    assert set(ended) == set(tasks) and ended[-1] is tasks[1], "it began anew, behind the others"
    assert [one.claim() for one in tasks] == ["made"] * 3 and all(one.error is None for one in tasks)
    assert made.width == 2 and released == ["caches"]
    assert "no memory for generate of '0001': it begins anew, with at most 2 at once" in caplog.text


def test_a_job_that_never_finds_memory_fails_with_the_way_out() -> None:
    made, one = lane(CRITIQUE, width=2), task(hungry(MEMORY_TRIES), CRITIQUE)
    made.admit(one)
    assert run_out(made) == [one] and made.width == 1
    assert isinstance(one.error, DoesNotFit) and "schedule.replies" in str(one.error)


def test_another_error_is_not_tried_again() -> None:
    made, one = lane(CRITIQUE, width=2), task(lambda: FakeJob("x", 1, ValueError("x"), late=False), CRITIQUE)
    made.admit(one)
    assert run_out(made) == [one] and isinstance(one.error, ValueError) and made.width == 2


def test_a_dropped_scenario_leaves_its_neighbour() -> None:
    made, one = lane(ENCODE), task(lambda: FakeJob("x", 1, late=False), ENCODE)
    other = Task(lane=ENCODE, name="encode", scenario_id="0002", attempt=0, start=lambda: FakeJob("y", 1))
    made.admit(one)
    made.admit(other)
    assert not made.has_room
    made.drop("0001")
    assert made.active == [other] and made.has_room


def test_finished_takes_are_stored_before_the_next_one_is_begun() -> None:
    with HostPool(1) as host:
        lanes = make_lanes(host=host, recorder=HostRecorder(), progress=Quiet(), widths={CRITIQUE: 3})
    assert [made.name for made in lanes] == list(LANE_JOBS) == ["encode", "select", "generate", "critique"]
    assert [made.name for made in lanes if made._host is not None] == list(HOST_LANES)
    assert [made.width for made in lanes] == [2, 1, 1, 3]
