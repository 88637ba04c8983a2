"""Why a take was chosen, in words: the first of the policy's rules by which it beats the next best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from critiques import bare_critique
from report_run import make_plan

from engine.loop.policy import choose_take, why_chosen
from engine.types import Attempt, Prompt, Verdict


def take(index: int, score: float | None = None, *, judged: bool = True, **selectors: float) -> Attempt:
    return Attempt(
        index=index,
        prompt=Prompt(text="a", negative="", seed=0, revision=0),
        video_path=Path(f"attempt-{index}.mp4"),
        critique=bare_critique(score) if judged else None,
        round=index,
        selector_scores=selectors,
    )


def accepted(attempt: Attempt) -> Attempt:
    assert attempt.critique is not None
    return replace(attempt, critique=replace(attempt.critique, verdict=Verdict.ACCEPT))


def planned(attempt: Attempt) -> Attempt:
    return replace(attempt, prompt=replace(attempt.prompt, plan=make_plan()))


@pytest.mark.parametrize(
    ("takes", "selectors", "why"),
    [
        ([take(0, 5.0)], ("critic_score",), "the only take"),
        ([take(0, 80.0), accepted(take(1, 70.0))], ("critic_score",), "the only one accepted"),
        ([take(0, 80.0), take(1, 70.0)], ("critic_score",), "best critic score"),
        ([take(0), take(1, 70.0)], ("critic_score",), "the only one scored"),
        ([take(0, 70.0), planned(take(1, 70.0))], ("critic_score",), "the plan's prompt"),
        ([take(0, 70.0), take(1, 70.0)], ("critic_score",), "the earliest of equals"),
        (
            [take(0), planned(take(1))],
            ("critic_score",),
            "no take was scored: the last of a plan",
        ),
        ([take(0), take(1)], ("critic_score",), "no take was scored: the first"),
        (
            [take(0, judged=False, geometry=3.0), take(1, 90.0, geometry=1.0)],
            ("geometry",),
            "best mean rank by geometry",
        ),
    ],
)
def test_the_first_rule_that_tells_them_apart(
    takes: list[Attempt], selectors: tuple[str, ...], why: str
) -> None:
    assert why_chosen(takes, choose_take(takes, selectors)) == why


def test_another_choice_than_the_policys_is_not_given_a_reason_of_its() -> None:
    assert why_chosen([take(0, 80.0), take(1, 70.0)], 1) == "by rules of another version"
