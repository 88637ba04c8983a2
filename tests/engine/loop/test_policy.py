"""The refinement loop: stop reasons, seeds, and as properties purity, termination and the champion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.loop.expected_gain import GainModel
from engine.loop.policy import RefinementPolicy, scenario_seed
from engine.settings.config import LoopConfig
from engine.types import (
    Attempt,
    Clip,
    Critique,
    Fault,
    PhysicsPlan,
    PlanEvent,
    PlanMotion,
    PlanReply,
    Prompt,
    Scenario,
    Stop,
    Verdict,
)


def with_loop(policy: RefinementPolicy, **settings: Any) -> RefinementPolicy:
    return replace(policy, settings=replace(policy.settings, **settings))


POLICY = RefinementPolicy(settings=LoopConfig(seed=7), negative="blurry")
SCENARIO = Scenario(
    id="0001_perspective-left",
    text="A ball rolls towards a block. Static shot with no camera movement.",
    prefix=Clip(path=Path("prefix.mp4"), fps=8.0, num_frames=24, width=128, height=128),
    category="Solid Mechanics",
    output_name="0001_perspective-left_ball.mp4",
)


def plan(direction: str = "left", speed: str = "slow") -> PhysicsPlan:
    return PhysicsPlan(
        objects=(),
        motion=(PlanMotion(object="ball", direction=direction, speed=speed),),
        events=(PlanEvent(t=1.0, what="the ball hits the block"),),
        rest=(),
        still=("table",),
    )


def reply(value: PhysicsPlan | None) -> PlanReply:
    return PlanReply(plan=value, raw="", num_tokens=1, seconds=0.1)


def critique(
    verdict: Verdict = Verdict.REVISE,
    score: float | None = 50.0,
    fault: Fault = Fault.MISSING_CLUES,
    revised: PhysicsPlan | None = None,
) -> Critique:
    return Critique(
        verdict=verdict,
        score=score,
        seen=(),
        expected=(),
        findings=(),
        fault=fault,
        revised=revised,
        raw="",
        num_tokens=1,
        seconds=0.1,
    )


UNREADABLE = critique(Verdict.UNREADABLE, None, Fault.NONE)


def take(index: int, prompt: Prompt, verdict: Critique | None) -> Attempt:
    path = Path(f"attempt-{index}.mp4")
    return Attempt(index=index, prompt=prompt, video_path=path, critique=verdict, round=index)


def play(
    policy: RefinementPolicy, first_plan: PlanReply, judge: Callable[[int], Critique]
) -> tuple[list[Attempt], str]:
    """The loop as the scheduler drives it."""
    attempts = [take(0, policy.first(SCENARIO), judge(0))]
    while not isinstance(decision := policy.next(SCENARIO, first_plan, attempts), Stop):
        attempts.append(take(len(attempts), decision, judge(len(attempts))))
        assert len(attempts) <= policy.settings.loops + 1
    return attempts, decision.reason


def test_first_prompt_is_the_brief() -> None:
    prompt = POLICY.first(SCENARIO)
    assert (prompt.text, prompt.negative, prompt.revision, prompt.plan) == (SCENARIO.text, "blurry", 0, None)


def test_second_prompt_is_the_plan_even_when_the_critique_has_another() -> None:
    attempts = [take(0, POLICY.first(SCENARIO), critique(revised=plan("right")))]
    prompt = POLICY.next(SCENARIO, reply(plan("left")), attempts)
    assert isinstance(prompt, Prompt)
    assert prompt.plan == plan("left") and prompt.revision == 1 and "moves left" in prompt.text
    assert prompt.seed == attempts[0].prompt.seed


def test_unreadable_plan_goes_on_with_the_revised_one() -> None:
    attempts = [take(0, POLICY.first(SCENARIO), critique(revised=plan("right")))]
    prompt = POLICY.next(SCENARIO, reply(None), attempts)
    assert isinstance(prompt, Prompt) and prompt.plan == plan("right")


@pytest.mark.parametrize(
    ("policy", "first_plan", "judge", "num_attempts", "reason"),
    [
        (POLICY, plan(), lambda i: critique(Verdict.ACCEPT, 90.0), 2, "accepted"),
        (POLICY, None, lambda i: critique(Verdict.ACCEPT, 90.0), 1, "accepted"),
        (
            with_loop(POLICY, only_incomplete=True),
            plan(),
            lambda i: critique(Verdict.ACCEPT, 90.0),
            1,
            "accepted",
        ),
        (POLICY, plan(), lambda i: critique(Verdict.ACCEPT if i else Verdict.REVISE, 90.0), 2, "accepted"),
        (with_loop(POLICY, loops=0), plan(), lambda i: critique(), 1, "loops"),
        (with_loop(POLICY, loops=2), plan(), lambda i: critique(score=i, revised=plan(str(i))), 3, "loops"),
        (POLICY, plan(), lambda i: critique(score=-i, revised=plan(str(i))), 3, "no improvement"),
        (POLICY, plan(), lambda i: critique(score=i, revised=plan()), 2, "prompt unchanged"),
        (POLICY, plan(), lambda i: critique(score=i), 2, "prompt unchanged"),
        (POLICY, None, lambda i: critique(), 1, "no readable plan"),
        (POLICY, None, lambda i: UNREADABLE, 1, "critic unreadable"),
        (POLICY, plan(), lambda i: UNREADABLE, 2, "critic unreadable"),
        (with_loop(POLICY, only_incomplete=True), plan(), lambda i: UNREADABLE, 1, "critic unreadable"),
        (
            with_loop(POLICY, only_incomplete=True),
            plan(),
            lambda i: critique(fault=Fault.WRONG_FACT),
            1,
            "prompt complete",
        ),
    ],
)
def test_stop_reasons(
    policy: RefinementPolicy,
    first_plan: PhysicsPlan | None,
    judge: Callable[[int], Critique],
    num_attempts: int,
    reason: str,
) -> None:
    attempts, stopped = play(policy, reply(first_plan), judge)
    assert (len(attempts), stopped) == (num_attempts, reason)


@pytest.mark.parametrize(
    ("weights", "num_attempts"),
    [
        ({"told": 3.0, "revised": -1.0}, 2),  # the plan's take is made, and a revision is not
        ({"told": 3.0, "revised": 1.0}, 3),  # one is, and of the next no more is expected
        ({"told": -3.0, "revised": -1.0}, 2),  # the brief text's take is the best, and stays it
    ],
)
def test_a_round_is_made_only_where_a_gain_is_expected(weights: dict[str, float], num_attempts: int) -> None:
    size = range(len(weights))
    covariance = tuple(tuple(0.0 for _ in size) for _ in size)
    gain = GainModel(weights=weights, covariance=covariance, deviations=1.0)
    policy = replace(with_loop(POLICY, patience=9), gain=gain)
    attempts, stopped = play(policy, reply(plan()), lambda i: critique(score=50.0 + i, revised=plan(str(i))))
    assert (len(attempts), stopped) == (num_attempts, "no gain expected")
    assert (
        len(play(replace(policy, gain=None), reply(plan()), lambda i: critique(revised=plan(str(i))))[0]) == 5
    )


def test_only_incomplete_refines_an_incomplete_prompt() -> None:
    policy = with_loop(POLICY, only_incomplete=True)
    attempts, stopped = play(
        policy, reply(plan()), lambda i: critique(fault=Fault.NONE if i else Fault.MISSING_CLUES, score=i)
    )
    assert (len(attempts), stopped) == (2, "prompt complete")


def test_model_fault_with_the_same_prompt_takes_a_new_seed() -> None:
    attempts, stopped = play(
        POLICY, reply(plan()), lambda i: critique(fault=Fault.MODEL, score=i, revised=plan())
    )
    base = scenario_seed(7, SCENARIO.id)
    assert [a.prompt.seed for a in attempts] == [base, base, base + 2, base + 3, base + 4]
    assert [a.prompt.revision for a in attempts] == [0, 1, 1, 1, 1]
    assert len({a.prompt.text for a in attempts[1:]}) == 1 and stopped == "loops"


def test_one_corrected_word_of_a_long_prompt_is_a_change() -> None:
    long = replace(SCENARIO, text="word " * 90)
    prompts = [POLICY.first(long), replace(POLICY.first(long), text="", revision=1)]
    attempts = [
        take(0, prompts[0], critique()),
        take(1, prompts[1], critique(score=60.0, revised=plan("left"))),
    ]
    second = POLICY.next(long, reply(plan()), attempts)
    assert isinstance(second, Prompt) and second.revision == 2
    attempts.append(take(2, second, critique(score=70.0, revised=plan("right"))))
    third = POLICY.next(long, reply(plan()), attempts)
    assert isinstance(third, Prompt) and "moves right" in third.text


def test_seeds_depend_on_run_and_scenario_only() -> None:
    assert scenario_seed(7, "a") == scenario_seed(7, "a")
    assert len({scenario_seed(run, name) for run in range(3) for name in "abc"}) == 9
    assert all(0 <= scenario_seed(run, "a") < 2**32 for run in range(50))


@pytest.mark.parametrize(
    ("critiques", "chosen"),
    [
        ([critique(score=50.0), critique(score=40.0)], 0),
        ([critique(score=50.0), critique(score=60.0), critique(score=55.0)], 1),
        ([critique(score=50.0), critique(score=50.0)], 1),  # of equals, the one that was told the physics
        ([critique(score=9.0), critique(score=50.0), critique(score=50.0)], 1),  # then the earlier
        ([critique(score=90.0), critique(Verdict.ACCEPT, 80.0)], 1),  # accepted first
        ([UNREADABLE, critique(score=0.0)], 1),  # a missing score is not zero
        ([critique(score=0.0), UNREADABLE], 0),
        ([UNREADABLE, UNREADABLE, UNREADABLE], 2),  # the last take of a plan's prompt
        ([None], 0),
    ],
)
def test_choose(critiques: Sequence[Critique | None], chosen: int) -> None:
    attempts = [
        take(i, replace(POLICY.first(SCENARIO), plan=plan() if i else None), c)
        for i, c in enumerate(critiques)
    ]
    assert POLICY.choose(attempts) == chosen


def test_selectors_break_ties_by_mean_rank() -> None:
    scores = [{"a": 1.0, "b": 9.0}, {"a": 2.0, "b": 8.0}, {"a": 3.0, "b": 8.5}]
    attempts = [
        replace(take(i, POLICY.first(SCENARIO), critique(score=50.0)), selector_scores=s)
        for i, s in enumerate(scores)
    ]
    assert POLICY.choose(attempts) == 2  # mean ranks 1.0, 1.5, 0.5
    partly = [*attempts[:2], replace(attempts[2], selector_scores={"a": 3.0})]
    assert POLICY.choose(partly) == 0  # scored by one of two selectors only: counts as not scored


def made(
    index: int, scores: dict[str, float], verdict: Critique | None = None, *, samples: int = 1
) -> Attempt:
    prompt = replace(POLICY.first(SCENARIO), text=f"text {index // samples}", plan=plan())
    bare = replace(take(index, prompt, verdict), round=index // samples, sample=index % samples)
    return replace(bare, selector_scores=scores)


LOOKING = with_loop(POLICY, selectors=("a", "b"))
JUDGED = with_loop(POLICY, selectors=("a", "critic_score"), samples=2)


def test_samples_of_a_round_share_its_text_and_not_its_seed() -> None:
    policy = with_loop(POLICY, samples=3)
    attempts: list[Attempt] = []
    while (prompt := policy.sample(SCENARIO, attempts)) is not None:
        bare = take(len(attempts), prompt, critique())
        attempts.append(replace(bare, round=0, sample=len(attempts)))
    seeds = [a.prompt.seed for a in attempts]
    assert len(set(seeds)) == 3 and seeds[0] == POLICY.first(SCENARIO).seed
    assert len({a.prompt.text for a in attempts}) == 1
    second = policy.next(SCENARIO, reply(plan()), attempts)
    assert isinstance(second, Prompt) and second.plan == plan() and second.seed == seeds[0]
    later = [replace(take(3, second, critique()), round=1, sample=0)]
    while (prompt := policy.sample(SCENARIO, [*attempts, *later])) is not None:
        later.append(replace(take(3 + len(later), prompt, critique()), round=1, sample=len(later)))
    assert [a.prompt.seed for a in later] == seeds  # brief text and plan are compared on the same seeds
    assert {a.prompt.text for a in later} == {second.text}


def test_later_rounds_have_seeds_of_their_own() -> None:
    third = replace(take(4, replace(POLICY.first(SCENARIO), seed=11), critique()), round=2, sample=0)
    prompt = with_loop(POLICY, samples=2).sample(SCENARIO, [third])
    assert prompt is not None and prompt.seed == scenario_seed("7/1", SCENARIO.id) + 2


def test_one_sample_is_always_a_full_round() -> None:
    attempts = [take(0, POLICY.first(SCENARIO), critique())]
    assert POLICY.sample(SCENARIO, []) == POLICY.first(SCENARIO)
    assert POLICY.sample(SCENARIO, attempts) is None


@pytest.mark.parametrize(
    ("samples", "selectors", "every"),
    [
        (1, ("critic_score",), True),
        (1, ("a", "critic_score"), True),
        (4, ("critic_score",), True),
        (4, ("a", "critic_score"), False),
        (4, ("a",), False),
    ],
)
def test_who_is_judged(samples: int, selectors: tuple[str, ...], every: bool) -> None:
    assert with_loop(POLICY, samples=samples, selectors=selectors).judges_every_take is every


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ([{"a": 1.0, "b": 9.0}, {"a": 2.0, "b": 8.0}, {"a": 3.0, "b": 8.5}], 2),
        ([{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 1.0}], 0),  # of equals the earlier
        ([{"a": 9.0}, {"a": 2.0, "b": 8.0}, {"a": 1.0, "b": 8.5}], 1),  # the first lacks a score
        ([{}, {}, {}], 0),
    ],
)
def test_winner_of_a_round(scores: list[dict[str, float]], winner: int) -> None:
    policy = with_loop(LOOKING, samples=3)
    best = {"a": 99.0, "b": 99.0}  # of an earlier round: it does not compete
    attempts = [made(i, best if i == 0 else {}, samples=3) for i in range(3)]
    attempts += [made(3 + i, entry, samples=3) for i, entry in enumerate(scores)]
    assert policy.winner(attempts) == 3 + winner


def test_champion_by_ranks_even_where_the_critic_accepts_another() -> None:
    accepted = critique(Verdict.ACCEPT, 99.0)
    attempts = [made(0, {"a": 1.0}, accepted), made(1, {"a": 2.0}, critique(score=5.0))]
    assert with_loop(POLICY, selectors=("a",)).choose(attempts) == 1
    assert POLICY.choose(attempts) == 0  # where nothing looks at the takes, the critic decides
    assert (
        with_loop(POLICY, selectors=("a", "critic_score")).choose(attempts) == 0
    )  # equal ranks: the critic's


def test_champion_by_the_critic_and_a_looker_is_a_take_that_was_judged() -> None:
    attempts = [
        made(0, {"a": 5.0}, critique(score=10.0), samples=2),
        made(1, {"a": 4.0}, samples=2),
        made(2, {"a": 9.0}, samples=2),  # the best look, but it lost its round when takes were fewer
        made(3, {"a": 8.0}, critique(score=20.0), samples=2),
    ]
    assert JUDGED.choose(attempts) == 3
    assert with_loop(JUDGED, selectors=("a",)).choose(attempts) == 2
    scored = [attempt.selector_scores for attempt in JUDGED.scored(attempts)]
    assert scored[2:] == [{"a": 9.0}, {"a": 8.0, "critic_score": 20.0}]


def test_patience_counts_rounds_under_the_order_of_the_selectors() -> None:
    policy = with_loop(POLICY, selectors=("a",), patience=2, samples=2)
    rising = critique(score=1.0, revised=plan("x"))  # progress for the critic only
    attempts = [
        made(i, {"a": 9.0 if i == 1 else 1.0}, replace(rising, score=float(i)) if i % 2 else None, samples=2)
        for i in range(6)
    ]
    assert isinstance(policy.next(SCENARIO, reply(plan()), attempts[:4]), Prompt)
    assert policy.next(SCENARIO, reply(plan()), attempts) == Stop(reason="no improvement")
    by_critic = with_loop(policy, selectors=("critic_score",))
    assert isinstance(by_critic.next(SCENARIO, reply(plan()), attempts), Prompt)


def test_the_critique_of_the_winner_leads_to_the_next_prompt() -> None:
    policy = with_loop(POLICY, selectors=("a",), samples=2)
    attempts = [made(0, {"a": 1.0}, samples=2), made(1, {"a": 2.0}, critique(), samples=2)]
    attempts += [made(2, {"a": 9.0}, critique(revised=plan("up")), samples=2), made(3, {}, samples=2)]
    decision = policy.next(SCENARIO, reply(plan()), attempts)
    assert isinstance(decision, Prompt) and decision.plan == plan("up")
    assert decision.seed == scenario_seed(7, SCENARIO.id) + 2
    assert policy.next(SCENARIO, reply(plan()), [replace(a, critique=None) for a in attempts]) == Stop(
        reason="critic unreadable"
    )


directions = st.sampled_from(["left", "right", "up", "down"])
plans = st.one_of(st.none(), st.builds(plan, directions, st.sampled_from(["slow", "fast"])))
critiques = st.one_of(
    st.just(UNREADABLE),
    st.builds(
        critique,
        st.sampled_from([Verdict.ACCEPT, Verdict.REVISE, Verdict.REVISE, Verdict.REVISE]),
        st.one_of(st.none(), st.integers(0, 4).map(float)),
        st.sampled_from(Fault),
        plans,
    ),
)
policies = st.builds(
    LoopConfig,
    seed=st.integers(0, 99),
    loops=st.integers(0, 6),
    patience=st.integers(1, 4),
    distance_threshold=st.sampled_from([0.0, 0.005, 0.3]),
    only_incomplete=st.booleans(),
).map(lambda settings: RefinementPolicy(settings=settings, negative=""))


@settings(max_examples=150, deadline=None)
@given(policies, plans, st.lists(critiques, min_size=7, max_size=7))
def test_loop_is_pure_terminates_and_never_loses_the_champion(
    policy: RefinementPolicy, first_plan: PhysicsPlan | None, judged: list[Critique]
) -> None:
    attempts, reason = play(policy, reply(first_plan), judged.__getitem__)
    assert (attempts, reason) == play(policy, reply(first_plan), judged.__getitem__)
    pixels = [(a.prompt.text, a.prompt.negative, a.prompt.seed) for a in attempts]
    assert len(set(pixels)) == len(pixels), "no take is generated twice"
    champions = [policy.choose(attempts[: n + 1]) for n in range(len(attempts))]
    for n, (before, after) in enumerate(pairwise(champions), start=1):
        assert after in (before, n), "only the newest take can replace the champion"
    scored = [a for a in attempts if a.critique is not None and a.critique.score is not None]
    accepted = [a for a in scored if a.critique is not None and a.critique.verdict is Verdict.ACCEPT]
    best = max((a.critique.score for a in accepted or scored if a.critique), default=None)
    winner = attempts[champions[-1]].critique
    assert winner is not None
    if not any(a.critique and a.critique.verdict is Verdict.ACCEPT for a in attempts) or accepted:
        assert winner.score == best


def test_what_becomes_of_a_scenario_that_nobody_could_judge() -> None:
    unread = replace(UNREADABLE, problem="no JSON object")
    two = [take(index, POLICY.first(SCENARIO), unread) for index in range(2)]
    assert POLICY.no_choice(two) is None and with_loop(POLICY, unreadable="choose").no_choice(two) is None
    left = with_loop(POLICY, unreadable="leave")
    assert "no JSON object; so none of 2 takes was judged" in str(left.no_choice(two))
    assert left.no_choice([two[0], take(1, two[0].prompt, critique(score=0.0))]) is None


def opened(told: PhysicsPlan | None, *judged: Critique) -> tuple[list[Attempt], str]:
    """A loop that begins with the plan, and why it stopped."""
    policy = with_loop(POLICY, first_prompt="plan", loops=len(judged) - 1)
    number, prompt = policy.opening(SCENARIO, reply(told))
    attempts = [replace(take(0, prompt, judged[0]), round=number)]
    while not isinstance(decision := policy.next(SCENARIO, reply(told), attempts), Stop):
        place = len(attempts)
        attempts.append(replace(take(place, decision, judged[place]), round=number + place))
    return attempts, decision.reason


def test_the_opening_take_is_that_of_round_1() -> None:
    policy = with_loop(POLICY, first_prompt="plan")
    of_brief = take(0, POLICY.first(SCENARIO), critique())
    second = POLICY.next(SCENARIO, reply(plan()), [of_brief])
    assert policy.opening(SCENARIO, reply(plan())) == (1, second), "with the seed by which both are compared"
    assert policy.opening(SCENARIO, reply(None)) == (0, POLICY.first(SCENARIO)), "no plan can be read"


def test_behind_the_opening_comes_the_revised_plan_with_a_seed_of_its_own() -> None:
    (first, second), reason = opened(plan("left"), critique(revised=plan("right")), critique())
    assert (first.prompt.plan, second.prompt.plan) == (plan("left"), plan("right"))
    assert (first.prompt.revision, second.prompt.revision, second.round) == (1, 2, 2)
    assert second.prompt.seed != first.prompt.seed == POLICY.first(SCENARIO).seed
    assert reason == "loops"


@pytest.mark.parametrize("told", [plan(), None])
def test_an_opening_that_is_surely_accepted_ends_the_loop(told: PhysicsPlan | None) -> None:
    attempts, reason = opened(told, critique(Verdict.ACCEPT, 95.0), critique())
    assert (len(attempts), reason) == (1, "accepted")


def test_an_opening_of_the_plan_that_nobody_can_judge_is_the_last_take() -> None:
    attempts, reason = opened(plan(), UNREADABLE, critique())
    assert (len(attempts), reason) == (1, "critic unreadable")


def test_which_prompt_comes_first_follows_from_the_gain_model() -> None:
    def begins(weight: float, deviation: float, **settings: str) -> bool:
        gain = GainModel(weights={"told": weight}, covariance=((deviation**2,),), deviations=1.0)
        return replace(with_loop(POLICY, **settings), gain=gain).begins_with_plan

    assert begins(4.7, 1.2) and not begins(1.1, 1.2) and not begins(-3.0, 0.1)
    assert not POLICY.begins_with_plan, "nobody knows which one is better: both are made"
    assert not begins(4.7, 1.2, first_prompt="brief")
    assert begins(-3.0, 0.1, first_prompt="plan")
