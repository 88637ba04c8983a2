"""What the scheduler keeps of a scenario in flight: its takes so far, the one in the making, its jobs.

Plain state without decisions; only the scheduler changes it, on its own thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.protocols import Fence, Job
from engine.types import Attempt, Critique, Outcome, PlanReply, Prompt, Scenario


@dataclass(slots=True, kw_only=True)
class Take:
    """The attempt in the making."""

    prompt: Prompt
    round: int
    sample: int
    video_path: Path | None = None
    critique: Critique | None = None
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class Track:
    """One scenario in flight."""

    scenario: Scenario
    plan: PlanReply | None
    attempts: list[Attempt]
    num_scored: int = 0  # how many of the attempts the selectors have compared
    busy: bool = False  # a take, the selectors or the winner's critique is under way
    stopped: str | None = None
    chosen: int | None = None
    failure: str | None = None

    @property
    def judged(self) -> bool:
        """Whether the last round has its critique."""
        last = self.attempts[-1].round
        return any(attempt.critique is not None for attempt in self.attempts if attempt.round == last)

    def outcome(self) -> Outcome | None:
        if self.chosen is None and self.failure is None:
            return None
        return Outcome(
            scenario_id=self.scenario.id,
            attempts=tuple(self.attempts),
            chosen=self.chosen,
            failure=self.failure,
            stopped=self.stopped,
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Task:
    """One job of one track. `land` takes its result and its seconds, on the scheduler's thread."""

    lane: str
    name: str
    track: Track
    attempt: int
    start: Callable[[], Job[Any]]
    land: Callable[[Any, float], None]
    job: Job[Any] | None = None
    fences: deque[Fence] = field(default_factory=deque)
    num_launched: int = 0
    started_s: float = 0.0

    def poll(self) -> bool:
        """Forget the steps that are over; whether that was the last one."""
        while self.fences and self.fences[0].done():
            self.fences.popleft()
        return not self.fences and self.job is not None and self.job.steps_left == 0
