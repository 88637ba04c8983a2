"""Takes, their scouts and what finishes a scout, for generators whose jobs begin and end at any step.

Knows no family: a generator says how a job is made, and how its models run in another number of steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Self, TypeVar

from engine.types import Prompt, Scenario, ScoutForm

AJob = TypeVar("AJob")


class MakesScouts(ABC, Generic[AJob]):
    """`start`, `scout` and `finish` of `engine.protocols.Generator`."""

    @abstractmethod
    def check_scouts(self, form: ScoutForm) -> None:
        """ConfigError where `scout` cannot make them."""

    @abstractmethod
    def in_steps(self, num_steps: int) -> Self:
        """The same models over a schedule of so few steps; it shares what is kept of prefixes and texts."""

    @abstractmethod
    def _job(
        self,
        scenario: Scenario,
        prompt: Prompt,
        *,
        scout: ScoutForm | None = None,
        after: ScoutForm | None = None,
    ) -> AJob: ...

    def start(self, scenario: Scenario, prompt: Prompt) -> AJob:
        """A job of 1 encode step, N denoise steps and the decode steps. Reads the prefix file now.

        Behind the steps that a scout of this prompt took, where they are kept. Raises VideoError when the
        prefix is unreadable or too short, ModelError when a text is too long.
        """
        return self._job(scenario, prompt)

    def scout(self, scenario: Scenario, prompt: Prompt, form: ScoutForm) -> AJob:
        """As `start`, in `form.steps` denoise steps. Raises as it and as `check_scouts`."""
        self.check_scouts(form)
        if form.whole:
            return self.in_steps(form.steps)._job(scenario, prompt, scout=form)
        return self._job(scenario, prompt, scout=form)

    def finish(self, scenario: Scenario, prompt: Prompt, form: ScoutForm) -> AJob:
        """The take of such a scout; with `form.kept` it begins where that ended."""
        self.check_scouts(form)
        return self._job(scenario, prompt, after=form if form.kept else None)
