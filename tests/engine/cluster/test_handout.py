"""Who gets which scenario, and what becomes of those that a lost worker held."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fake_run import scenario

from engine.cluster.handout import MOST_LOSSES, HandOut, expected_s
from engine.types import Attempt, History, Prompt, Scenario

PROMPT = Prompt(text="A ball.", negative="", seed=1, revision=0)


def take(index: int, seconds: float) -> Attempt:
    timings = {"generate": seconds - 1.0, "critique": 1.0}
    return Attempt(index=index, prompt=PROMPT, video_path=Path("v.mp4"), critique=None, timings=timings)


def handout(
    scenarios: list[Scenario], past: dict[str, History] | None = None, *, each: int = 8, workers: int = 1
) -> HandOut:
    known = past or {}
    return HandOut(
        scenarios,
        lambda name: known.get(name, History()),
        num_takes=3,
        most_each=each,
        num_workers=workers,
    )


def given(found: HandOut, worker: int) -> list[str]:
    names = []
    while (one := found.next(worker)) is not None:
        names.append(one.id[:4])
    return names


def test_expected_seconds_are_those_of_the_takes_that_are_left() -> None:
    two = History(attempts=(take(0, 10.0), take(1, 20.0)))
    assert expected_s(scenario(1), two, num_takes=3, take_s=99.0) == 15.0
    assert expected_s(scenario(1), History(), num_takes=3, take_s=99.0) == 297.0
    assert expected_s(scenario(1), two, num_takes=1, take_s=99.0) == 0.0


def test_longest_expected_first() -> None:
    """By known times where there are any, then by the prefix, then as the dataset has them."""
    four = [scenario(number) for number in range(1, 5)]
    long_prefix = replace(four[3], prefix=replace(four[3].prefix, num_frames=48))
    past = {
        four[0].id: History(attempts=(take(0, 5.0),)),
        four[2].id: History(attempts=(take(0, 60.0),)),
    }
    # 0001: 2 takes of 5 s; 0003: 2 of 60 s; the others: 3 of the mean, 32.5 s
    assert given(handout([*four[:3], long_prefix], past), 0) == ["0003", "0004", "0002", "0001"]


def test_of_few_scenarios_each_worker_has_its_share_and_no_more_than_has_room() -> None:
    ten = [scenario(number) for number in range(10)]
    found = handout(ten, workers=2)
    assert len(given(found, 0)) == 5 and len(given(found, 1)) == 5
    found = handout(ten, each=2, workers=2)
    assert (given(found, 0), given(found, 1)) == (["0000", "0001"], ["0002", "0003"])
    found.finished(1, ten[2].id)
    assert given(found, 0) == [] and given(found, 1) == ["0004"]


def test_what_a_lost_worker_held_goes_to_others() -> None:
    three = [scenario(number) for number in range(3)]
    found = handout(three, workers=2)
    assert (given(found, 0), given(found, 1)) == (["0000", "0001"], ["0002"])
    found.finished(0, three[1].id)
    assert found.lost(0, for_good=True) == ()
    assert given(found, 1) == ["0000"]
    for name in (three[0].id, three[2].id):
        assert not found.over
        found.finished(1, name)
    assert found.over


def test_a_scenario_that_is_always_with_the_lost_is_given_up() -> None:
    """It may be what kills them; it must not end the run."""
    found = handout([scenario(0), scenario(1)], each=1)
    for _ in range(MOST_LOSSES - 1):
        assert given(found, 0) == ["0000"]
        assert found.lost(0, for_good=False) == ()
    assert given(found, 0) == ["0000"]
    assert found.lost(0, for_good=False) == (scenario(0).id,)
    assert given(found, 0) == ["0001"]


def test_what_is_paused_is_not_handed_out_and_takes_no_room() -> None:
    three = [scenario(number) for number in range(3)]
    found = handout(three, each=1)
    paused = {three[0].id}
    first = found.next(0, paused)
    assert first is not None and first.id == three[1].id
    assert found.next(0, paused) is None, "it has one in hand"
    second = found.next(0, paused | {three[1].id})
    assert second is not None and second.id == three[2].id, "the one in hand is paused"
    assert found.next(0, paused) is None
    for one in three[1:]:
        found.finished(0, one.id)
    assert not found.over and given(found, 0) == ["0000"]
