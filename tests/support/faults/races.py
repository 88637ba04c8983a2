"""Two processes on one run folder at once: one works, the other says why it does not."""

from __future__ import annotations

import random
from collections.abc import Iterator

from faults.interruptions import killed_in_between
from faults.trial import Finding, Story, Trial
from faults.workload import Workload

REFUSED = 2


def races(*, count: int, seconds: float) -> Iterator[Trial]:
    """The second process begins up to `seconds` after the first."""
    for seed in range(count):
        delay_s = random.Random(f"race {seed}").uniform(0, seconds) * (seed % 3 != 0)
        yield Trial(
            fault="two `run` of one folder",
            name=str(seed),
            run=lambda load, delay_s=delay_s: _race(load, delay_s, begun=False),
        )
        yield Trial(
            fault="two `resume` of one folder",
            name=str(seed),
            run=lambda load, delay_s=delay_s: _race(load, delay_s, begun=True),
        )
        yield Trial(
            fault="`report` during a run",
            name=str(seed),
            run=lambda load, delay_s=delay_s: _report(load, delay_s),
        )


def _race(load: Workload, delay_s: float, *, begun: bool) -> Finding:
    story = Story(load, load.folder())
    if begun:
        story.add(killed_in_between(load, story.out))
    arguments = load.go_on(story.out)
    first = load.start(arguments)
    first.ended_within(delay_s)
    second = load.start(arguments)
    ended = [second.wait(), first.wait()]
    for one in ended:
        story.add(one, expected=(0, REFUSED))
    if not begun and [one.status for one in ended].count(0) != 1:
        story.silent.append(f"of two that start a run, these statuses: {[one.status for one in ended]}")
    story.go_on()
    return story.end()


def _report(load: Workload, delay_s: float) -> Finding:
    story = Story(load, load.folder())
    command = load.start(load.begin(story.out))
    command.ended_within(delay_s)
    report = load.run(["report", str(story.out)])
    story.add(command.wait(), expected=(0,))
    if report.unclear or report.status not in (0, REFUSED):
        story.finding.unclear.append(f"report, status {report.status}: {report.output[-400:]}")
    story.go_on()
    return story.end()
