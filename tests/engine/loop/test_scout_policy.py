"""The scout loop as pure functions: candidates, halving, another round or why there is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from critiques import bare_critique
from fake_run import SCENARIOS, SCOUTS, gains, make_plan

from engine.loop.policy import NO_GAIN, RefinementPolicy, scenario_seed
from engine.loop.scout_policy import NOT_CALIBRATED, ScoutPolicy, finished_from, why_finished
from engine.types import Attempt, Fault, PlanReply, Prompt, Scout, Stop, Verdict

SCENARIO = SCENARIOS[0]
PLAN = PlanReply(plan=make_plan("left"), raw="", num_tokens=0, seconds=0.0)
UNREADABLE = replace(PLAN, plan=None)


def policy(gain: float | None = 5.0, **settings: Any) -> ScoutPolicy:
    loop = replace(SCOUTS, **{"scouts": 6, "loops": 4} | settings)
    model = None if gain is None else gains(gain)
    return ScoutPolicy(refinement=RefinementPolicy(settings=loop, negative="none", gain=model))


def all_of(chosen: ScoutPolicy, number: int, prompts: tuple[Prompt, ...]) -> list[Prompt]:
    return [chosen.candidate(SCENARIO, number, place, prompts) for place in range(chosen.settings.scouts)]


def take(round_number: int, score: float | None, **changes: Any) -> Attempt:
    (prompt, *_) = policy().prompts(SCENARIO, PLAN)[1:]
    critique = None if score is None else replace(bare_critique(score), **changes)
    return Attempt(
        index=round_number,
        prompt=prompt,
        video_path=Path("x.mp4"),
        critique=critique,
        round=round_number,
        selector_scores={} if score is None else {"critic_score": score},
    )


def test_half_of_the_candidates_have_each_prompt_and_both_the_same_seeds() -> None:
    chosen = policy(scouts=7)
    prompts = chosen.prompts(SCENARIO, PLAN)
    found = all_of(chosen, 0, prompts)
    assert Counter(prompt.revision for prompt in found) == {0: 4, 1: 3}
    assert [p.seed for p in found[:3]] == [p.seed for p in found[4:]] and len({p.seed for p in found}) == 4
    assert found[0].seed == scenario_seed(1, SCENARIO.id), "the seed of a run of one take"
    assert found[4].plan == PLAN.plan and found[0].plan is None
    assert [p.negative for p in found] == ["none"] * 7


def test_without_a_plan_all_have_the_brief_and_a_seed_of_their_own() -> None:
    chosen = policy()
    found = all_of(chosen, 0, chosen.prompts(SCENARIO, UNREADABLE))
    assert {prompt.text for prompt in found} == {SCENARIO.text}
    assert len({prompt.seed for prompt in found}) == chosen.settings.scouts
    known_later = all_of(chosen, 0, chosen.prompts(SCENARIO, PLAN))
    assert found[:3] == known_later[:3], "those are made before the plan is there"


def test_each_round_has_seeds_of_its_own() -> None:
    chosen = policy()
    prompts = chosen.prompts(SCENARIO, PLAN)
    seeds = [{p.seed for p in all_of(chosen, number, prompts)} for number in range(4)]
    assert all(a.isdisjoint(b) for i, a in enumerate(seeds) for b in seeds[:i])


def test_stages_double_the_steps_and_halve_the_candidates() -> None:
    chosen = policy(scouts=9, scout_steps=2, scout_halvings=2, finalists=2)
    assert [form.steps for form in chosen.forms] == [2, 4, 8]
    assert [chosen.num_in(stage) for stage in range(4)] == [9, 5, 3, 2]


def look(candidate: int, stage: int = 0, **changes: Any) -> Scout:
    chosen = policy()
    prompt = chosen.candidate(SCENARIO, 0, candidate, chosen.prompts(SCENARIO, PLAN))
    return Scout(
        number=candidate + 10 * stage,
        round=0,
        stage=stage,
        candidate=candidate,
        prompt=prompt,
        form=chosen.forms[stage],
        video_path=Path(f"scout-{candidate}.mp4"),
        **changes,
    )


def test_ranks_are_means_over_the_choosers_and_ties_go_to_the_earlier() -> None:
    scores = [
        {"a": 1.0, "b": 4.0},
        {"a": 3.0, "b": 2.0},
        {"a": 2.0, "b": 3.0},
        {"a": 0.0},
        {"a": 9.0, "b": 9.0},
        {"a": 0.0, "b": 0.0},
    ]
    ranked = policy().ranked([look(candidate) for candidate in range(6)], scores)
    assert [scout.place for scout in ranked] == [1, 2, 3, 5, 0, 4], "one without a score of b is last"
    assert [scout.kept for scout in ranked] == [True, True, False, False, True, False]
    assert [scout.scores for scout in ranked] == scores
    backwards = policy().ranked([look(candidate) for candidate in range(5, -1, -1)], scores[::-1])
    assert sorted(backwards, key=lambda scout: scout.candidate) == ranked


def test_another_round_has_the_revised_prompt_and_the_champions() -> None:
    revised = make_plan("right")
    found = policy().next(SCENARIO, PLAN, [take(0, 50.0, revised=revised, fault=Fault.WRONG_FACT)])
    assert isinstance(found, tuple) and [prompt.plan for prompt in found] == [revised, PLAN.plan]
    assert [prompt.revision for prompt in found] == [2, 1]
    same = policy().next(SCENARIO, PLAN, [take(0, 50.0, revised=PLAN.plan, fault=Fault.MODEL)])
    assert isinstance(same, tuple) and [prompt.plan for prompt in same] == [PLAN.plan], "with other seeds"


@pytest.mark.parametrize(
    ("attempts", "reason", "gain", "settings"),
    [
        ([take(0, 95.0, verdict=Verdict.ACCEPT)], "accepted", 5.0, {}),
        ([take(0, 50.0)], "loops", 5.0, {"loops": 0}),
        ([take(0, 90.0), take(1, 10.0), take(2, 10.0)], "no improvement", -1.0, {}),
        ([take(0, None)], "critic unreadable", 5.0, {}),
        ([take(0, 50.0)], NOT_CALIBRATED, None, {}),
        ([take(0, 50.0)], NO_GAIN, 0.0, {}),
        ([take(0, 50.0, fault=Fault.TOO_COMPLEX)], "prompt unchanged", 5.0, {}),
    ],
)
def test_why_there_is_no_other_round(
    attempts: list[Attempt], reason: str, gain: float | None, settings: dict[str, Any]
) -> None:
    assert policy(gain, **settings).next(SCENARIO, PLAN, attempts) == Stop(reason=reason)


def test_why_a_candidate_became_the_take() -> None:
    scores = [{"a": float(candidate)} for candidate in range(6)]
    first = policy().ranked([look(candidate) for candidate in range(6)], scores)
    second = policy().ranked([look(c, 1) for c in (3, 4, 5)], [{"a": 7.0}, {"a": 2.0}, {"a": 1.0}])
    looks = [*first, *second]
    attempt = replace(take(0, 50.0), prompt=second[0].prompt)
    assert [scout.stage for scout in finished_from(looks, attempt)] == [0, 1]
    assert why_finished(looks, attempt) == (
        "scout 3: place 3 of 6 after 2 steps by a 3; place 1 of 3 after 4 steps by a 7"
    )
    assert why_finished(looks, replace(attempt, prompt=replace(attempt.prompt, seed=-1))) == ""


@pytest.mark.parametrize(
    ("most", "number", "stage", "left", "batches"),
    [
        (1, 0, 0, range(6), [[0], [1], [2], [3], [4], [5]]),
        (4, 0, 0, range(6), [[0, 1, 2], [3, 4, 5]]),
        (2, 0, 0, range(6), [[0], [1, 2], [3], [4, 5]]),
        (4, 0, 1, [0, 2, 5], [[0, 2, 5]]),
        (4, 1, 0, range(6), [[0, 1, 2], [3, 4, 5]]),
        (64, 1, 0, range(6), [[0, 1, 2, 3, 4, 5]]),
    ],
)
def test_batches_are_even_and_those_of_the_brief_do_not_wait_for_the_plan(
    most: int, number: int, stage: int, left: Any, batches: list[list[int]]
) -> None:
    assert policy(scout_batch=most).batches(number, stage, left) == batches
