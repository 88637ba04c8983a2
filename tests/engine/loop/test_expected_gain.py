"""The expected gain by hand: features, its lower bound, and the champion that it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from critiques import bare_critique
from report_run import make_plan

from engine.loop.expected_gain import ACCEPTABLE, EXPECTED_GAIN, GainModel, features, plans_take
from engine.loop.policy import RefinementPolicy, choose_take, why_chosen
from engine.settings.config import LoopConfig
from engine.types import Attempt, Prompt, Verdict


def take(index: int, score: float | None, *, told: bool = True, **selectors: float) -> Attempt:
    prompt = Prompt(text="a", negative="", seed=0, revision=index, plan=make_plan() if told else None)
    return Attempt(
        index=index,
        prompt=prompt,
        video_path=Path(f"attempt-{index}.mp4"),
        critique=bare_critique(score),
        round=index,
        selector_scores=selectors,
    )


def model(deviations: float = 0.0, variance: float = 0.0, **weights: float) -> GainModel:
    size = len(weights)
    rows = tuple(tuple(variance if i == j else 0.0 for j in range(size)) for i in range(size))
    named = {name.replace("rank_", "rank "): weight for name, weight in weights.items()}
    return GainModel(weights=named, covariance=rows, deviations=deviations)


TAKES = [take(0, 60.0, told=False, a=1.0), take(1, 40.0, a=2.0), take(2, None, a=2.0), take(3, 90.0)]


def test_features_and_what_is_missing() -> None:
    rows = features(TAKES, ["a", "b"])
    mean = (60.0 + 40.0 + 90.0) / 3 / 100
    assert [row["critic_score"] for row in rows] == pytest.approx([0.6, 0.4, mean, 0.9])
    assert [row["unreadable"] for row in rows] == [0.0, 0.0, 1.0, 0.0]
    assert [row["told"] for row in rows] == [0.0, 1.0, 1.0, 1.0]
    assert [row["revised"] for row in rows] == [0.0, 0.0, 1.0, 1.0]
    assert [row["rank a"] for row in rows] == [0.0, 0.75, 0.75, 0.5], "of two others one is below, one equal"
    assert {row["rank b"] for row in rows} == {0.5}
    accepted = replace(TAKES[0], critique=replace(bare_critique(60.0), verdict=Verdict.ACCEPT))
    assert features([accepted], [])[0]["accepted"] == 1.0
    assert features([replace(TAKES[0], critique=None)], [])[0] == {
        "critic_score": 0.0, "accepted": 0.0, "unreadable": 1.0, "told": 0.0, "revised": 0.0,
    }  # fmt: skip


def test_another_take_is_a_middling_one_of_a_revised_plan() -> None:
    first = TAKES[:2]  # of which the second is chosen, told, with a score of 40 where the mean is 50
    assert model(revised=3.0).of_another(first, 1) == 3.0
    assert model(told=3.0).of_another(first, 1) == 0.0 and model(told=3.0).of_another(first, 0) == 3.0
    assert model(critic_score=10.0).of_another(first, 1) == pytest.approx(1.0)
    assert model(rank_a=8.0).of_another(first, 1) == -4.0, "it is the best so far by that selector"
    accepted = replace(first[1], critique=replace(bare_critique(40.0), verdict=Verdict.ACCEPT))
    assert model(accepted=5.0).of_another([first[0], accepted], 1) == -5.0
    assert model(1.0, 4.0, revised=1.5).of_another(first, 1) == -0.5, "lowered by one deviation of 2"
    unread = [replace(take, critique=None) for take in first]
    assert model(critic_score=10.0).of_another(unread, 1) == 0.0


def test_a_revised_take_is_known_by_its_prompt_too() -> None:
    second = replace(TAKES[1], round=1, prompt=replace(TAKES[1].prompt, revision=2))
    assert features([second], [])[0]["revised"] == 1.0


def test_gains_are_over_the_plans_take_and_lowered_by_their_doubt() -> None:
    assert plans_take(TAKES) == 1 and plans_take([replace(TAKES[1], prompt=TAKES[0].prompt)]) == 0
    assert model(critic_score=10.0).gains(TAKES) == pytest.approx([2.0, 0.0, 10 * (19 / 30 - 0.4), 5.0])
    # the differences are 0.2, 0 and 0.5 of a feature whose weight has a deviation of 4
    lowered = model(1.0, 16.0, critic_score=10.0).gains([TAKES[0], TAKES[1], TAKES[3]])
    assert lowered == pytest.approx([2.0 - 0.8, 0.0, 5.0 - 2.0])
    pair = GainModel(
        weights={"critic_score": 10.0, "told": 0.0}, covariance=((4.0, -1.0), (-1.0, 1.0)), deviations=2.0
    )
    # difference (0.2, -1): 0.04 * 4 + 2 * 0.2 * 1 + 1 = 1.56
    assert pair.gains(TAKES[:2]) == pytest.approx([2.0 - 2 * 1.56**0.5, 0.0])


def chosen_by(gain: GainModel, takes: list[Attempt]) -> tuple[int, str]:
    policy = RefinementPolicy(settings=LoopConfig(selectors=("critic_score",)), negative="", gain=gain)
    scored = policy.scored(takes)
    assert all(EXPECTED_GAIN in attempt.selector_scores for attempt in scored)
    chosen = policy.choose(takes)
    assert chosen == choose_take(scored, ("critic_score",))
    return chosen, why_chosen(scored, chosen)


def test_the_champion_is_surely_better_than_the_plans_take_or_it_is_that_take() -> None:
    takes = [TAKES[0], TAKES[1], TAKES[3]]
    assert chosen_by(model(1.0, 16.0, critic_score=10.0), takes) == (
        2, "expected to score 3.0 points or more above the plan's take",
    )  # fmt: skip
    unsure = model(3.0, 16.0, critic_score=10.0)
    assert chosen_by(unsure, takes) == (1, "the plan's take, and no other is surely better")
    nothing = model(critic_score=0.0)
    assert chosen_by(nothing, takes) == (1, "the plan's take, and no other is surely better"), "ties"
    brief = [take(i, score, told=False) for i, score in enumerate((10.0, 20.0))]
    assert chosen_by(nothing, brief) == (0, "the first take, and no other is surely better")
    scored = RefinementPolicy(settings=LoopConfig(), negative="", gain=unsure).scored(takes)
    assert why_chosen(scored, 2) == "by rules of another version"


def test_without_a_model_nothing_is_said_of_gains() -> None:
    policy = RefinementPolicy(settings=LoopConfig(), negative="")
    assert all(EXPECTED_GAIN not in attempt.selector_scores for attempt in policy.scored(TAKES))
    assert policy.choose(TAKES) == 3


def test_how_probably_a_take_is_acceptable_is_told_beside_its_gain() -> None:
    shares = (*(place / 20 for place in range(10)), 0.3)
    fitted = replace(model(critic_score=10.0), acceptable=shares)
    scored = fitted.noted([*TAKES, take(4, 100.0), take(5, 9.9), take(6, 99.9)])
    told = [attempt.selector_scores.get(ACCEPTABLE) for attempt in scored]
    # 60, 40, unreadable, 90; 100 is a share of its own
    assert told == [0.3, 0.2, None, 0.45, 0.3, 0.0, 0.45]
    assert scored[0].selector_scores["a"] == 1.0 and fitted.gains(TAKES)[1] == 0.0
    assert all(ACCEPTABLE not in a.selector_scores for a in model(critic_score=10.0).noted(TAKES))
    with pytest.raises(AssertionError):
        replace(fitted, acceptable=(0.5, 0.5))
