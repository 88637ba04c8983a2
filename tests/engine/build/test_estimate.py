"""Time estimates: arithmetic by hand, steps that are not run are extrapolated."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from engine.build.estimate import TimeEstimate, clock, time_job
from engine.machine.streams import HostFence
from engine.protocols import Fence


@dataclass
class SleepingJob:
    """Steps that take a time of their own; the clock is turned, nobody sleeps."""

    steps_s: list[float]
    clock: list[float]
    done: int = 0

    @property
    def steps_left(self) -> int:
        return len(self.steps_s) - self.done

    @property
    def stage(self) -> str:
        return "step"

    def launch(self) -> Fence:
        self.clock[0] += self.steps_s[self.done]
        self.done += 1
        return HostFence()

    def result(self) -> None:
        return None


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_whole_job_is_summed(turned: list[float]) -> None:
    assert time_job(SleepingJob([3.0, 1.0, 1.5], turned), max_steps=None) == pytest.approx(5.5)


def test_steps_not_run_count_as_the_steady_median(turned: list[float]) -> None:
    steps = [9.0, 5.0, 1.0, 1.0, 2.0, *[1.0] * 45]
    job = SleepingJob(steps, turned)
    assert time_job(job, max_steps=5) == pytest.approx(18.0 + 45 * 1.0)
    assert job.done == 5


def test_a_finished_job_takes_no_time(turned: list[float]) -> None:
    assert time_job(SleepingJob([], turned), max_steps=3) == 0.0


def made(*, overlap: bool) -> TimeEstimate:
    return TimeEstimate(
        num_scenarios=10,
        takes_per_scenario=5,
        critiques_per_scenario=5,
        overlap=overlap,
        generate_s=20.0,
        plan_s=10.0,
        critique_s=8.0,
    )


def test_totals_by_hand() -> None:
    both, one = made(overlap=True), made(overlap=False)
    assert both.longest_s == one.longest_s == one.shortest_s == 10 * 5 * 20 + 10 * (10 + 5 * 8)
    assert both.shortest_s == 10 * 5 * 20 + (10 + 5 * 8)
    assert "18 min to 25 min for 10 scenarios" in both.describe()
    assert "; 25 min for 10 scenarios" in one.describe()


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45 s"), (600, "10 min"), (12000, "3 h 20 min"), (5400, "1 h 30 min")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
