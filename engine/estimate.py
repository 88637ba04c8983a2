"""How long a run takes at most, from steps timed on its own models and its own first scenario.

Knows jobs, not models. The estimate is an upper bound on the number of takes (every loop is used), not on the
machine: the first steps, which compile or warm up, are left out of the mean.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.protocols import Critic, Generator, Job
from engine.types import Prompt, Scenario, Video
from engine.video import read_prefix

WARM_UP_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeEstimate:
    """Seconds of one take, one plan and one critique, and the run that is made of them."""

    num_scenarios: int
    takes_per_scenario: int  # at most
    overlap: bool
    generate_s: float
    plan_s: float
    critique_s: float

    @property
    def total_s(self) -> float:
        """With overlap the longer lane decides; the other one's work of one scenario remains at the end."""
        generate_s = self.num_scenarios * self.takes_per_scenario * self.generate_s
        critique_s = self.num_scenarios * (self.plan_s + self.takes_per_scenario * self.critique_s)
        if not self.overlap:
            return generate_s + critique_s
        return max(generate_s, critique_s) + min(generate_s, critique_s) / max(self.num_scenarios, 1)

    def describe(self) -> str:
        mode = "with" if self.overlap else "without"
        return (
            f"one take {self.generate_s:.1f} s, one plan {self.plan_s:.1f} s, "
            f"one critique {self.critique_s:.1f} s: at most {clock(self.total_s)} for {self.num_scenarios} "
            f"scenarios of up to {self.takes_per_scenario} takes, {mode} overlap"
        )


def estimate(
    generator: Generator, critic: Critic, scenario: Scenario, *, num_scenarios: int, loops: int, overlap: bool
) -> TimeEstimate:
    """Time a few denoise steps, one plan and one critique on `scenario`.

    The take that is critiqued is the frozen last frame: it costs the critic as much as any other.
    Raises VideoError when the prefix cannot be read.
    """
    spec = generator.spec
    prompt = Prompt(text=scenario.text, negative="", seed=0, revision=0)
    last = read_prefix(scenario.prefix, spec)[-1:]
    frozen = Video(frames=np.repeat(last, spec.num_frames, axis=0), fps=spec.fps)
    return TimeEstimate(
        num_scenarios=num_scenarios,
        takes_per_scenario=1 + loops,
        overlap=overlap,
        generate_s=time_job(generator.start(scenario, prompt), max_steps=WARM_UP_STEPS + 4),
        plan_s=time_job(critic.plan(scenario), max_steps=None),
        critique_s=time_job(critic.start(scenario, prompt, frozen), max_steps=None),
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
