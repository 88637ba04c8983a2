"""One fault put into one run: disturb it, go on until it is done, compare with the undisturbed run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults.evidence import Damage, State, compare, read_state
from faults.process import Ended
from faults.workload import Workload

MAX_PROCESSES = 4
"""As many undisturbed ones as may be needed to end a run: one, or two where the first only says why not."""

Disturbed = Callable[[Workload, Path], Ended]
"""Starts or resumes the run of a folder, does something to it meanwhile, and says how it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`name` is unique within its fault, and with it the whole trial."""

    fault: str
    name: str
    run: Callable[[Workload], Finding]


@dataclass(slots=True, kw_only=True)
class Finding:
    """What one trial showed. `unclear` has the ends that left a user with a traceback or with nothing."""

    tried: int = 1
    kills: int = 0
    damage: Damage = field(default_factory=Damage)
    message: str = ""
    unclear: list[str] = field(default_factory=list)
    skipped: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Story:
    """The processes that one run folder saw, in order, and its state after each."""

    def __init__(self, load: Workload, out: Path) -> None:
        self.load, self.out = load, out
        self.outputs: list[str] = []
        self.states: list[State] = []
        self.silent: list[str] = []
        """What should have been noticed, and was not."""
        self.finding = Finding()

    def add(self, ended: Ended, *, expected: tuple[int, ...] = ()) -> None:
        """A process that ended, well or not. One of another status than `expected` says nothing of use."""
        self.outputs.append(ended.output)
        self.states.append(read_state(self.out))
        if (said := message(ended.output)) and not self.finding.message:
            self.finding.message = said
        if ended.unclear or (expected and ended.status not in expected):
            self.finding.unclear.append(f"status {ended.status}: {ended.output[-400:]}")

    def go_on(self) -> None:
        """Undisturbed, until a process says that all is done."""
        for _ in range(MAX_PROCESSES):
            ended = self.load.run(self.load.go_on(self.out))
            self.add(ended)
            if ended.status == 0:
                return
        self.finding.unclear.append(f"not done after {MAX_PROCESSES} more processes")

    def end(self) -> Finding:
        """The verdict; the folder is removed."""
        self.finding.damage = compare(self.load.reference(), self.states[:-1], self.states[-1], self.outputs)
        self.finding.damage.unequal += self.silent
        self.load.remove(self.out)
        return self.finding


def disturbed(load: Workload, *disturb: Disturbed, statuses: tuple[int, ...] = ()) -> Finding:
    """Each of `disturb` has a process of its own; then the run goes on to its end.

    A process that nothing killed ends with one of `statuses`, where these are given.
    """
    story = Story(load, load.folder())
    for one in disturb:
        ended = one(load, story.out)
        story.finding.kills += ended.status == -9
        story.add(ended, expected=() if ended.status < 0 else statuses)
        if ended.status == 0:
            break
    story.go_on()
    return story.end()


def message(output: str) -> str:
    """The error that a command showed: its kind and problem, without the frame and the places."""
    lines = [line.strip("│╭╰─╮╯ ").strip() for line in output.splitlines()]
    starts = [i for i, line in enumerate(lines) if re.search(r"\b[A-Z]\w*(Error|Fit|Finite)\b", line)]
    if not starts:
        return ""
    first = starts[-1] if "Traceback" in output else starts[0]
    text = " ".join(lines[first : first + 4]).partition("Fix:")[0]
    return " ".join(re.sub(r"/\S+/", "", text).split())[:160]
