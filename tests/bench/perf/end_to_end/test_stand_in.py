"""The stand-in answers every question with the one reply, at once."""

from __future__ import annotations

from typing import Any

from bench.perf.end_to_end.reply import critic_tokenizer
from bench.perf.end_to_end.stand_in import InstantCritic
from engine.protocols import Critic
from engine.types import Verdict


def test_the_reply_is_plan_and_critique() -> None:
    tokenizer, chain = critic_tokenizer(120)
    critic: Critic = InstantCritic(reply=tokenizer.decode(chain))
    nothing: Any = None
    plan, critique = critic.plan(nothing), critic.start(nothing, nothing, nothing, nothing)
    for job in (plan, critique):
        assert job.steps_left == 1 and job.launch().done() and job.steps_left == 0
    assert critique.result().verdict is Verdict.REVISE and critique.result().num_tokens == 0
    assert critique.result().revised == plan.result().plan is not None
