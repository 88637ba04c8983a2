"""Where the time of a lane of the device went, from the trace: what kept its next step from running.

The parts add up to the time from the beginning of the run to its end, so that a shortfall has a name:

- `working_s`: the steps, each counted as long as the fastest one at its place in a job
- `slowed_s`: what they took longer than that, beside the other lanes or for want of kernels to run
- `no_job_s`: between two jobs the next one had not been launched: there was nothing to do, or nobody did it
- `not_launched_s`: within a job the host had not launched the next step
- `not_started_s`: the next step was launched, and the device had not begun it
- `before_first_s`, `after_last_s`: from the beginning of the run, and to its end

Measures nothing. Times are seconds on the clock of the trace.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.runs.trace import Span

NO_JOB, NOT_LAUNCHED, NOT_STARTED = "no_job_s", "not_launched_s", "not_started_s"
LONGEST = 12
"""Waits that are listed one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """The lane did nothing from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    cause: str

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


def jobs_of(spans: Sequence[Span], lane: str) -> list[list[Span]]:
    """The steps of each job of a lane, in order."""
    jobs: dict[tuple[str, int, str], list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_s):
        if span.lane == lane:
            jobs[span.scenario_id, span.attempt, span.name].append(span)
    return list(jobs.values())


def idle(spans: Sequence[Span], lane: str, end_s: float) -> dict[str, Any]:
    """The document of one lane, whose steps do not overlap; empty without one.

    `end_s`: of the run, which began at 0; what was done later, for scenarios that did not end, is left out.
    `step_s` is the median of each step by its place in a job.
    """
    spans = [span for span in spans if span.end_s <= end_s]
    steps = sorted((span for span in spans if span.lane == lane), key=lambda span: span.start_s)
    if not steps:
        return {}
    by_place: dict[int, list[float]] = defaultdict(list)
    for job in jobs_of(spans, lane):
        for place, span in enumerate(job):
            by_place[place].append(span.end_s - span.start_s)
    working_s = sum(len(times) * min(times) for times in by_place.values())
    waits = [wait for before, after in itertools.pairwise(steps) for wait in _waits(before, after)]
    parts = {
        "working_s": working_s,
        "slowed_s": sum(itertools.chain.from_iterable(by_place.values())) - working_s,
        **{
            cause: sum(wait.seconds for wait in waits if wait.cause == cause)
            for cause in (NO_JOB, NOT_LAUNCHED, NOT_STARTED)
        },
        "before_first_s": steps[0].start_s,
        "after_last_s": end_s - max(span.end_s for span in steps),
    }
    return {
        "lane": lane,
        "makespan_s": end_s,
        "parts_s": parts,
        "step_s": [statistics.median(by_place[place]) for place in sorted(by_place)],
        "num_jobs": len(by_place[0]),
        "longest_waits": [_told(wait, spans, lane) for wait in _longest(waits)],
    }


def _waits(before: Span, after: Span) -> Iterator[Wait]:
    """What lies between two steps that follow one another: first it was not launched, then not begun."""
    start_s, end_s = before.end_s, after.start_s
    if end_s <= start_s:
        return
    launch_s = end_s if after.launch_s is None else min(max(after.launch_s, start_s), end_s)
    same = (before.scenario_id, before.attempt, before.name) == (
        after.scenario_id,
        after.attempt,
        after.name,
    )
    if launch_s > start_s:
        yield Wait(start_s=start_s, end_s=launch_s, cause=NOT_LAUNCHED if same else NO_JOB)
    if end_s > launch_s:
        yield Wait(start_s=launch_s, end_s=end_s, cause=NOT_STARTED)


def _longest(waits: Sequence[Wait]) -> list[Wait]:
    return sorted(waits, key=lambda wait: -wait.seconds)[:LONGEST]


def _told(wait: Wait, spans: Sequence[Span], lane: str) -> Mapping[str, Any]:
    """With the seconds that other lanes worked meanwhile, by what they did."""
    others: dict[str, float] = defaultdict(float)
    for span in spans:
        shared_s = min(span.end_s, wait.end_s) - max(span.start_s, wait.start_s)
        if span.lane != lane and shared_s > 0:
            others[f"{span.lane}: {span.name} {span.scenario_id} {span.attempt}"] += shared_s
    return {
        "at_s": wait.start_s,
        "seconds": wait.seconds,
        "cause": wait.cause.removesuffix("_s"),
        "meanwhile_s": dict(others),
    }
