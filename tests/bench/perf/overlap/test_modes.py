"""Ratios and checks of the ways to run two lanes, from made-up runs."""

from __future__ import annotations

import pytest

from bench.perf.overlap.modes import BESIDE, CRITIC, GENERATION, Mode, all_modes, checks, find, rows, summary
from bench.perf.overlap.sharing import ONE_STREAM, SHARINGS, STREAMS
from bench.perf.overlap.work import Amount, Ran
from engine.runs.trace import Span


def spans(lane: str, jobs: int, step_s: float, steps: int = 4) -> list[Span]:
    return [
        Span(
            lane=lane,
            scenario_id="clip",
            attempt=job,
            name=lane,
            start_s=(job * steps + i) * step_s,
            end_s=(job * steps + i + 1) * step_s,
        )
        for job in range(jobs)
        for i in range(steps)
    ]


def ran(mode: Mode, makespan_s: float, step_s: float = 0.5, frames: str = "f") -> Ran:
    takes, replies = mode.amount.takes, mode.amount.replies
    return Ran(
        makespan_s=makespan_s,
        spans=[*spans("generate", takes, step_s), *spans("critique", replies, 0.25)],
        takes=[f"{frames}{i}" for i in range(takes)],
        replies=["r"] * replies,
        tokens=400 * replies,
        gpu={"power_w": {"mean": 690.0}},
    )


@pytest.fixture
def modes() -> list[Mode]:
    """One take of 6 s and two replies of 2 s each; at once 8 s, in turns 10."""
    found = all_modes([Amount(takes=1, replies=2, at_once=1)], SHARINGS)
    seconds = {GENERATION: 6.0, CRITIC: 4.0, BESIDE: 8.0}
    for mode in found:
        if mode.sharing in (STREAMS, ONE_STREAM):
            slow = 10.0 if mode.sharing == ONE_STREAM else seconds.get(mode.kind, 10.5)
            mode.runs += [ran(mode, slow + extra, 0.5) for extra in (0.0, 0.2, -0.2)]
        else:
            mode.reason = "not here"
    return found


def test_ratios_of_medians(modes: list[Mode]) -> None:
    assert summary(modes) == {
        "four_step_over_slicing": 10.0 / 8.0,
        "critic_share_hidden": (6.0 + 4.0 - 8.0) / 4.0,
        "best_sharing": STREAMS.name,
        "best_sharing_over_slicing": 1.25,
    }


def test_rows_tell_steps_tokens_and_reasons(modes: list[Mode]) -> None:
    ours = find(modes, BESIDE, 1)
    ours.runs = [ran(ours, 8.0, 0.6)]
    made = {row["name"]: row for row in rows(modes, num_steps=2)}
    row = made[ours.name]
    assert (row["step_ms"], row["slowdown"]) == pytest.approx((600.0, 1.2))
    assert row["tokens_per_s"] == pytest.approx(800 / 2.0) and row["gpu"]["power_w"] == 690.0
    assert (row["over_sum_of_both"], row["over_slicing"], row["equal"]) == (1.25, 1.25, True)
    others = [row for row in made.values() if "reason" in row]
    assert len(others) == len(SHARINGS) - 2 and all("makespan_s" not in row for row in others)
    [alone] = [row for row in made.values() if row["kind"] == GENERATION]
    assert alone["tokens_per_s"] is None and "over_slicing" not in alone


def test_another_sharing_may_be_the_best_one(modes: list[Mode]) -> None:
    other = find(modes, BESIDE, 1, SHARINGS[3])
    other.reason, other.runs = None, [ran(other, 7.5, frames="g")]
    found = summary(modes)
    assert (found["best_sharing"], found["four_step_over_slicing"]) == (SHARINGS[3].name, 1.25)
    row = next(row for row in rows(modes, 2) if row["sharing"] == SHARINGS[3].name)
    assert not row["equal"], "other frames than one after the other"
    assert all(check["holds"] for check in checks(modes)), "only the product's own must be equal"


def test_a_run_with_other_frames_fails_the_check(modes: list[Mode]) -> None:
    turns = find(modes, BESIDE, 1, ONE_STREAM)
    turns.runs[1] = ran(turns, 10.0, frames="g")
    [check] = checks(modes)
    assert not check["holds"] and turns.name in check["found"]


def test_without_runs_there_is_nothing_to_say() -> None:
    modes = all_modes([Amount(takes=1, replies=2, at_once=1)], SHARINGS)
    assert summary(modes) == {} and [check["holds"] for check in checks(modes)] == [False]
    assert all("makespan_s" not in row for row in rows(modes, 4))


def test_each_amount_has_its_own_critic_and_turns() -> None:
    modes = all_modes([Amount(takes=1, replies=2), Amount(takes=1, replies=4, at_once=4)], SHARINGS)
    assert len({mode.name for mode in modes}) == len(modes) == 5 + 3 + len(SHARINGS) - 2
    assert find(modes, GENERATION, 4) is find(modes, GENERATION, 1)
    warm = [mode for mode in modes if mode.warms]
    assert {(mode.sharing.name, mode.amount.at_once) for mode in warm} >= {
        (STREAMS.name, 1), (STREAMS.name, 4), (ONE_STREAM.name, 1), ("streams, equal", 1),
    }  # fmt: skip
