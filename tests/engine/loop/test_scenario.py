"""The loop of one scenario without a scheduler: each task is done when it is begun, one after the other."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_run import BY_CRITIC, OF_THREE, FakeModels, make_plan
from live_loop import Made, before_the_plan, do, history, live

from engine.loop.policy import RefinementPolicy
from engine.types import Attempt, PhysicsPlan, Scenario


def test_a_take_is_generated_then_encoded_and_critiqued_then_stored() -> None:
    made = Made(BY_CRITIC)
    loop, names = live(made)
    assert names[:4] == ["plan", "generate", "encode", "critique"] and set(names[4:]) <= set(names[1:4])
    assert made.sink.said[0][0] == "plan"
    assert [what for what, _ in made.sink.said[1:]] == ["attempt"] * len(loop.attempts)
    assert loop.outcome is not None and loop.outcome.attempts == tuple(loop.attempts)
    assert all(a.timings.keys() == {"generate", "encode", "critique"} for a in loop.attempts)


def test_each_take_takes_its_first_steps_again_everywhere_where_that_is_asked() -> None:
    again = replace(BY_CRITIC.settings, finish_restarts=2, restart_steps=3)
    made = Made(replace(BY_CRITIC, settings=again))
    loop, _ = live(made)
    asked = made.by.generator.restarts  # type: ignore[attr-defined]
    assert len(asked) == len(loop.attempts) > 1
    assert {(one.times, one.steps, one.share, one.differ.tobytes()) for one in asked} == {
        (2, 3, 1.0, np.ones(1, np.float32).tobytes())
    }
    plain = Made(BY_CRITIC)
    live(plain)
    assert plain.by.generator.restarts == []  # type: ignore[attr-defined]


class Told(FakeModels):
    """Notes the plans that the critic is told; `without`: the prefix gives no readable one."""

    def __init__(self, *, without: bool = False) -> None:
        super().__init__()
        self.without = without
        self.plans: list[PhysicsPlan | None] = []

    def plan(self, scenario: Scenario) -> Any:
        job: Any = super().plan(scenario)
        job.value = replace(job.value, plan=None) if self.without else job.value
        return job

    def start(self, scenario: Any, prompt: Any, video: Any = None, plan: Any = None) -> Any:
        if video is None:
            return super().start(scenario, prompt)
        self.plans.append(plan)
        return super().start(scenario, prompt, video, prompt.plan or make_plan("left"))


def test_the_critic_is_told_the_plan_of_the_prompt_or_the_first_one() -> None:
    models = Told()
    loop, _ = live(Made(BY_CRITIC, models))
    assert len(loop.attempts) > 1 and loop.attempts[0].prompt.plan is None
    assert models.plans == [attempt.prompt.plan or make_plan("left") for attempt in loop.attempts]
    lacking = Told(without=True)
    loop, _ = live(Made(BY_CRITIC, lacking))
    assert lacking.plans == [attempt.prompt.plan for attempt in loop.attempts] and lacking.plans[0] is None


@pytest.mark.parametrize("policy", [BY_CRITIC, OF_THREE])
def test_a_take_is_written_but_not_judged_before_the_plan_is_there(policy: RefinementPolicy) -> None:
    steps, begun = before_the_plan(Made(policy))
    assert begun[-1].name in ("encode", "read") and "critique" not in [task.name for task in begun]
    do(begun[0])
    next(steps)
    assert begun[-1].name == "critique"


def test_the_outcome_is_stored_by_close_and_only_then() -> None:
    made = Made(BY_CRITIC)
    loop, _ = live(made)
    assert "outcome" not in dict(made.sink.said)
    assert loop.close() is loop.outcome and made.sink.said[-1] == ("outcome", loop.outcome)


def test_of_three_takes_the_winner_alone_is_judged() -> None:
    made = Made(OF_THREE)
    loop, names = live(made)
    assert names[:10] == ["plan", *["generate", "encode"] * 3, "select", "read", "critique"]
    by_round: dict[int, list[Attempt]] = {}
    for attempt in loop.attempts:
        by_round.setdefault(attempt.round, []).append(attempt)
    for takes in by_round.values():
        brightest = max(takes, key=lambda take: made.shown[take.video_path])
        assert [take.index for take in takes if take.critique is not None] == [brightest.index]


def test_frames_are_freed_when_their_attempt_is_stored() -> None:
    made = Made(BY_CRITIC)
    held: list[bool] = []
    store = made.sink.attempt

    def attempt(scenario_id: str, stored: Attempt) -> None:
        gc.collect()
        held.append(made.frames[-1]() is not None)
        store(scenario_id, stored)

    made.sink.attempt = attempt  # type: ignore[method-assign]
    live(made)
    assert held and not any(held)


@pytest.mark.parametrize("known", [1, 2])
def test_what_was_stored_is_not_made_again(known: int) -> None:
    whole, _ = live(Made(BY_CRITIC))
    assert len(whole.attempts) > known
    past = history(attempts=(replace(a, selector_scores={}) for a in whole.attempts[:known]))
    loop, names = live(Made(BY_CRITIC), past)
    assert "plan" not in names and names.count("generate") == len(whole.attempts) - known
    assert loop.outcome == whole.outcome


def test_a_failure_keeps_the_attempts() -> None:
    made = Made(BY_CRITIC)
    loop, _ = live(made)
    loop.fail("RuntimeError: lost")
    assert loop.outcome is not None and loop.outcome.failure == "RuntimeError: lost"
    assert loop.outcome.chosen is None and loop.outcome.attempts == tuple(loop.attempts)


def test_winners_cannot_be_chosen_without_looking() -> None:
    made = Made(OF_THREE)
    with pytest.raises(AssertionError, match="looking"):
        replace(made.by, read=None)
