"""The stand-in answers every question with its two replies, at once."""

from __future__ import annotations

from typing import Any

from bench.perf.end_to_end.reply import FOR_CRITIQUE, FOR_PLAN, critic_tokenizer
from bench.perf.end_to_end.stand_in import InstantCritic
from engine.protocols import Critic
from engine.types import Verdict


def test_the_replies_are_plan_and_critique() -> None:
    tokenizer, replies = critic_tokenizer(220)
    planned, judged = (tokenizer.decode(replies[kind]) for kind in (FOR_PLAN, FOR_CRITIQUE))
    critic: Critic = InstantCritic(planned=planned, judged=judged)
    nothing: Any = None
    plan, critique = critic.plan(nothing), critic.start(nothing, nothing, nothing, nothing)
    for job in (plan, critique):
        assert job.steps_left == 1 and job.launch().done() and job.steps_left == 0
    assert critique.result().verdict is Verdict.REVISE and critique.result().num_tokens == 0
    assert plan.result().plan is not None
    assert critique.result().revised not in (None, plan.result().plan)
