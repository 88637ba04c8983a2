"""How long a run takes if every loop is used, from steps timed on its own models and first scenario.

Knows jobs, not models. The first steps, which compile or warm up, count once and are not extrapolated.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.protocols import Critic, Generator, Job
from engine.types import Prompt, Restarts, Scenario, ScoutForm, Video
from engine.video.prefix import read_prefix
from engine.words import counted

WARM_UP_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeEstimate:
    """Seconds of one take, one plan and one critique, and the run that is made of them."""

    num_scenarios: int
    takes_per_scenario: int
    critiques_per_scenario: int  # fewer than takes where selectors choose what is critiqued
    overlap: bool  # whether the lanes can run at the same time: only on a GPU
    generate_s: float
    plan_s: float
    critique_s: float
    scouts_per_scenario: int = 0
    scouts_s: float = 0.0  # of all scouts of a scenario

    @property
    def longest_s(self) -> float:
        """Every loop is used and nothing runs at the same time."""
        return self._generate_lane_s + self._critique_lane_s

    @property
    def shortest_s(self) -> float:
        """Every loop is used and the shorter lane hides behind the longer one, but for one scenario's share.

        Two lanes on one GPU also slow each other down, so a run lies between this and `longest_s`.
        """
        lanes = sorted((self._generate_lane_s, self._critique_lane_s))
        return self.longest_s if not self.overlap else lanes[1] + lanes[0] / self.num_scenarios

    @property
    def _generate_lane_s(self) -> float:
        return self.num_scenarios * (self.takes_per_scenario * self.generate_s + self.scouts_s)

    @property
    def _critique_lane_s(self) -> float:
        return self.num_scenarios * (self.plan_s + self.critiques_per_scenario * self.critique_s)

    def describe(self) -> str:
        between = f"{clock(self.shortest_s)} to " if self.overlap else ""
        scouts = (
            f"{counted(self.scouts_per_scenario, 'scout')} {self.scouts_s:.1f} s, "
            if self.scouts_per_scenario
            else ""
        )
        takes = self.takes_per_scenario
        if_all = f" if all {counted(takes, 'take')} are used" if takes > 1 else ""
        return (
            f"{scouts}one take {self.generate_s:.1f} s, one plan {self.plan_s:.1f} s, "
            f"one critique {self.critique_s:.1f} s; {between}{clock(self.longest_s)} for "
            f"{counted(self.num_scenarios, 'scenario')}{if_all}"
        )


def estimate(
    generator: Generator,
    critic: Critic,
    scenario: Scenario,
    *,
    num_scenarios: int,
    takes_per_scenario: int,
    critiques_per_scenario: int,
    overlap: bool,
    scouts: Sequence[tuple[ScoutForm, int]] = (),
    restarts: Restarts | None = None,
) -> TimeEstimate:
    """Time a few denoise steps, one plan and one critique on `scenario`. Selectors are not counted.

    scouts: how many of each form a scenario has at most, whose generator makes them; one of each is timed.
    restarts: of every take.
    The take that is critiqued is the frozen last frame: it costs the critic as much as any other.
    Raises VideoError when the prefix cannot be read.
    """
    spec = generator.spec
    prompt = Prompt(text=scenario.text, negative="", seed=0, revision=0)
    last = read_prefix(scenario.prefix, spec)[-1:]
    planning = critic.plan(scenario)
    plan_s = time_job(planning, max_steps=None)
    scouting: Any = generator
    scouts_s = sum(
        num * time_job(scouting.scout(scenario, prompt, form), max_steps=None) for form, num in scouts
    )
    again = {} if restarts is None else {"restarts": restarts}
    take = partial(scouting.start, scenario, prompt, **again)
    frozen = Video(frames=np.repeat(last, spec.num_frames, axis=0), fps=spec.fps)
    return TimeEstimate(
        num_scenarios=num_scenarios,
        takes_per_scenario=takes_per_scenario,
        critiques_per_scenario=critiques_per_scenario,
        overlap=overlap,
        generate_s=time_job(take(), max_steps=WARM_UP_STEPS + 4),
        plan_s=plan_s,
        critique_s=time_job(critic.start(scenario, prompt, frozen, planning.result().plan), max_steps=None),
        scouts_per_scenario=sum(num for _, num in scouts),
        scouts_s=scouts_s,
    )


def time_job(job: Job[Any], *, max_steps: int | None) -> float:
    """Seconds of the whole job. With `max_steps`, a step that was not run counts as the median of those run.

    Waits after every step, so it belongs before a run, never into one.
    """
    seconds: list[float] = []
    while job.steps_left and (max_steps is None or len(seconds) < max_steps):
        start_s = time.perf_counter()
        job.launch().wait()
        seconds.append(time.perf_counter() - start_s)
    if not seconds:
        return 0.0
    steady = seconds[WARM_UP_STEPS:] or seconds
    return sum(seconds) + job.steps_left * statistics.median(steady)


def clock(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
