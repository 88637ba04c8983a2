"""The store of a run with somebody watching: what is safe is shown, never before.

Knows neither a terminal nor a database.
"""

from __future__ import annotations

from engine.protocols import Display, Sink
from engine.types import Attempt, Outcome, PlanReply


class Watched:
    """A sink that shows each piece of finished work once it is safe."""

    def __init__(self, store: Sink, display: Display) -> None:
        self._store = store
        self._display = display

    def plan(self, scenario_id: str, reply: PlanReply) -> None:
        self._store.plan(scenario_id, reply)
        self._display.plan(scenario_id, reply)

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        self._store.attempt(scenario_id, attempt)
        self._display.attempt(scenario_id, attempt)

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        self._store.judged(scenario_id, attempt)
        self._display.judged(scenario_id, attempt)

    def outcome(self, outcome: Outcome) -> None:
        self._store.outcome(outcome)
        self._display.outcome(outcome)
