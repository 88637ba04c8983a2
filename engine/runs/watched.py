"""The store of a run with somebody watching: what is safe is shown, never before.

Knows neither a terminal nor a database.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from engine.protocols import Display, Recorder, Sink
from engine.runs.trace import STORE
from engine.types import Attempt, Outcome, PlanReply, Scout

log = logging.getLogger(__name__)


class Watched:
    """A sink that shows each piece of finished work once it is safe, and logs it."""

    def __init__(self, store: Sink, display: Display) -> None:
        self._store = store
        self._display = display
        self._recorder: Recorder | None = None

    def timed_by(self, recorder: Recorder) -> None:
        """Writing to the store has a span from now on."""
        self._recorder = recorder

    def plan(self, scenario_id: str, reply: PlanReply) -> None:
        with self._span(scenario_id, 0, "plan"):
            self._store.plan(scenario_id, reply)
        log.info("plan scenario=%s readable=%s s=%.1f", scenario_id, reply.plan is not None, reply.seconds)
        self._display.plan(scenario_id, reply)

    def scout(self, scenario_id: str, scout: Scout) -> None:
        with self._span(scenario_id, scout.number, "scout"):
            self._store.scout(scenario_id, scout)
        log.info(
            "scout scenario=%s number=%d round=%d stage=%d candidate=%d seed=%d steps=%d",
            scenario_id, scout.number, scout.round, scout.stage, scout.candidate, scout.prompt.seed,
            scout.form.steps,
        )  # fmt: skip
        self._display.scout(scenario_id, scout)

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        with self._span(scenario_id, scouts[-1].number, "rank"):
            self._store.ranked(scenario_id, scouts)
        log.info(
            "ranked scenario=%s round=%d stage=%d kept=%s",
            scenario_id, scouts[0].round, scouts[0].stage, [s.candidate for s in scouts if s.kept],
        )  # fmt: skip
        self._display.ranked(scenario_id, scouts)

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        with self._span(scenario_id, attempt.index, "take"):
            self._store.attempt(scenario_id, attempt)
        log.info("take %s", _told(scenario_id, attempt))
        self._display.attempt(scenario_id, attempt)

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        with self._span(scenario_id, attempt.index, "critique"):
            self._store.judged(scenario_id, attempt)
        log.info("judged %s", _told(scenario_id, attempt))
        self._display.judged(scenario_id, attempt)

    def outcome(self, outcome: Outcome) -> None:
        with self._span(outcome.scenario_id, max(len(outcome.attempts) - 1, 0), "outcome"):
            self._store.outcome(outcome)
        log.info(
            "outcome scenario=%s takes=%d chosen=%s stopped=%s failure=%s",
            outcome.scenario_id, len(outcome.attempts), outcome.chosen, outcome.stopped, outcome.failure,
        )  # fmt: skip
        self._display.outcome(outcome)

    def _span(self, scenario_id: str, attempt: int, name: str) -> AbstractContextManager[None]:
        if self._recorder is None:
            return nullcontext()
        return self._recorder.span(STORE, scenario_id, attempt, name)


def _told(scenario_id: str, attempt: Attempt) -> str:
    critique = attempt.critique
    verdict = None if critique is None else str(critique.verdict)
    score = None if critique is None else critique.score
    return (
        f"scenario={scenario_id} take={attempt.index} round={attempt.round} sample={attempt.sample} "
        f"seed={attempt.prompt.seed} verdict={verdict} score={score}"
    )
