"""Both displays take the same calls; the plain one writes lines that a log can be searched for."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from critiques import bare_critique
from fake_run import make_plan
from rich.console import Console

from engine.commands._progress import (
    ChosenScores,
    LiveDisplay,
    PlainDisplay,
    TimeLeft,
    describe_outcome,
    describe_take,
    make_display,
)
from engine.runs.pace import Left
from engine.types import Attempt, Outcome, PlanReply, Prompt, Scout, ScoutForm


def attempt(index: int, score: float | None) -> Attempt:
    critique = bare_critique(score)
    prompt = Prompt(text="a ball", negative="", seed=0, revision=index)
    path = Path("v.mp4")
    return Attempt(index=index, prompt=prompt, video_path=path, critique=critique, round=index)


def play(display: LiveDisplay | PlainDisplay) -> None:
    with display:
        display.update("generate", "0001_a", 1, 8)
        display.plan("0001_a", PlanReply(plan=None, raw="", num_tokens=0, seconds=1.5))
        display.attempt("0001_a", attempt(0, 40.0))
        display.attempt("0001_a", attempt(1, None))
        display.outcome(
            Outcome(scenario_id="0001_a", attempts=(attempt(0, 40.0),), chosen=0, stopped="loops")
        )
        display.finished(["0001_a"])
        display.outcome(Outcome(scenario_id="0002_b", attempts=(), failure="[bold]no clip"))
        display.finished(["0002_b"])


def test_plain_lines() -> None:
    stream = io.StringIO()
    play(PlainDisplay(Console(file=stream), 2))
    assert stream.getvalue().splitlines() == [
        "0001_a: plan unreadable in 1.5 s",
        "0001_a: take 0: revise, score 40.0",
        "0001_a: take 1: unreadable",
        "0001_a: chose take 0 (loops): the only take [1/2, chosen takes 40.0, about 0 s left]",
        "0002_b: failed: [bold]no clip [2/2, chosen takes 40.0]",
    ]


def test_takes_of_a_round_in_words() -> None:
    stream = io.StringIO()
    lost = replace(attempt(3, None), critique=None, round=1, sample=1)
    with PlainDisplay(Console(file=stream), 1) as display:
        display.attempt("a", lost)
        looked = replace(attempt(3, 50.0), round=1, sample=1, selector_scores={"consensus": 0.8125})
        display.judged("a", looked)
        display.outcome(Outcome(scenario_id="a", attempts=(attempt(0, 1.0),), chosen=0, stopped="loops"))
    assert stream.getvalue().splitlines() == [
        "a: take 3 (round 1, sample 1): made",
        "a: winner of round 1: take 3 (round 1, sample 1): revise, score 50.0; best of its round by "
        "consensus 0.812",
        "a: chose take 0 (loops): the only take [1/1, chosen takes 1.0]",
    ]


def look(candidate: int, place: int, **scores: float) -> Scout:
    return Scout(
        number=candidate,
        round=0,
        stage=0,
        candidate=candidate,
        prompt=replace(attempt(0, None).prompt, seed=candidate),
        form=ScoutForm(steps=2, whole=True),
        video_path=Path("x.mp4"),
        scores=scores,
        place=place,
        kept=place < 2,
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_scouts_are_told_by_stage_and_at_the_outcome(terminal: bool) -> None:
    stream = io.StringIO()
    looks = [look(0, 2, a=0.25, b=3.0), look(1, 0, a=0.5, b=4.0), look(2, 1, a=0.375)]
    take = replace(attempt(0, 50.0), prompt=looks[1].prompt)
    with make_display(Console(file=stream, force_terminal=terminal, width=300), 1) as display:
        for one in looks:
            display.scout("a", one)
        display.ranked("a", looks)
        display.outcome(Outcome(scenario_id="a", attempts=(take,), chosen=0, stopped="loops"))
    said = stream.getvalue()
    assert "a: 3 scouts of 2 steps by a, b: 1 0.5 4, 2 0.375 go on, before 0 0.25 3" in said
    assert "the only take; it is scout 1: place 1 of 3 after 2 steps by a 0.5, b 4" in said


def test_live_bars_show_lanes_scenarios_and_failures() -> None:
    stream = io.StringIO()
    play(LiveDisplay(Console(file=stream, force_terminal=True, width=120), 3))
    text = stream.getvalue()
    for part in ("generate", "critique", "encode", "scenarios", "2/3", "about 0 s left", "[bold]no clip"):
        assert part in text, part


@pytest.mark.parametrize(("terminal", "kind"), [(True, LiveDisplay), (False, PlainDisplay)])
def test_the_stream_decides(terminal: bool, kind: type) -> None:
    assert isinstance(make_display(Console(file=io.StringIO(), force_terminal=terminal), 1), kind)


def test_scores_are_those_of_chosen_takes_as_in_the_report() -> None:
    """Selectors and a gain model choose a take that the critic likes less than another."""
    scores = ChosenScores()
    assert str(scores) == "no score yet"
    takes = tuple(attempt(index, score) for index, score in enumerate((30.0, 70.0, None)))
    for name, chosen in (("a", 0), ("b", 1), ("c", 2)):
        scores.add(Outcome(scenario_id=name, attempts=takes, chosen=chosen, stopped="loops"))
    scores.add(Outcome(scenario_id="d", attempts=takes, failure="no clip"))
    assert str(scores) == "chosen takes 50.0"


def test_outcomes_in_words() -> None:
    chosen = Outcome(scenario_id="x", attempts=(attempt(0, 1.0),), chosen=0, stopped="accepted")
    assert describe_outcome(chosen) == "x: chose take 0 (accepted): the only take"


def test_a_choice_among_samples_says_which_were_judged() -> None:
    """The best mean rank of the selectors, of which the critic saw one take a round."""
    scores = (0.2, 0.9, 0.5)
    takes = tuple(
        replace(
            attempt(index, 40.0 if index == 1 else None),
            round=0,
            sample=index,
            selector_scores={"consensus": value} | ({"critic_score": 40.0} if index == 1 else {}),
        )
        for index, value in enumerate(scores)
    )
    takes = tuple(replace(take, critique=take.critique if take.index == 1 else None) for take in takes)
    said = describe_outcome(Outcome(scenario_id="x", attempts=takes, chosen=1, stopped="loops"))
    assert said == "x: chose take 1 of 0 to 2 (loops): best mean rank by consensus, critic_score; judged: 1"


def test_time_left_goes_by_the_scenarios_that_took_time() -> None:
    now = [100.0]
    left = TimeLeft(5, lambda: now[0])
    left.outcome(Outcome(scenario_id="refused", attempts=(), failure="no clip"))
    assert left.left is None and str(left) == ""
    now[0] += 600
    left.outcome(Outcome(scenario_id="x", attempts=(attempt(0, 1.0),), chosen=0, stopped="loops"))
    assert left.left == Left(seconds=1800, low=None, high=None) and str(left) == "about 30 min left"
    now[0] += 600
    left.outcome(Outcome(scenario_id="y", attempts=(attempt(0, 1.0),), failure="broken"))
    now[0] += 900
    left.outcome(Outcome(scenario_id="z", attempts=(attempt(0, 1.0),), failure="broken"))
    assert str(left).startswith("about 12 min left (0 s to ")


def test_a_take_says_its_place_where_a_round_has_several_and_when_it_opens_with_the_plan() -> None:
    first = attempt(0, 50.0)
    told = replace(first, round=1, prompt=replace(first.prompt, plan=make_plan("left")))
    assert describe_take(told) == "take 0 of the plan: revise, score 50.0"
    assert describe_take(replace(told, index=1, round=2)) == "take 1: revise, score 50.0"
    assert describe_take(replace(told, index=1, sample=1)).startswith("take 1 (round 1, sample 1)")
    assert describe_take(replace(told, index=3, round=2)).startswith("take 3 (round 2, sample 0)")
