"""The scout loop of one scenario without a scheduler: what is begun, in which order, and what is kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import BY_SCOUTS, OF_FINALISTS, FakeModels
from live_loop import Made, before_the_plan, do, history, live

from engine.loop.policy import RefinementPolicy
from engine.loop.scout_policy import ScoutPolicy
from engine.loop.scouting import Scouts
from engine.types import Attempt, Scenario, Scout, Video

ONE_ROUND = replace(BY_SCOUTS, settings=replace(BY_SCOUTS.settings, loops=0))


class Scouted(Made):
    """With previews, whose frames are held weakly."""

    def __init__(self, policy: RefinementPolicy, models: Any = None) -> None:
        super().__init__(policy, models)
        self.previews: list[weakref.ref[np.ndarray]] = []
        self.stored: list[Scout] = []
        self.ranked: list[Scout] = []
        self.sink.ranked = lambda scenario_id, scouts: self.ranked.extend(scouts)  # type: ignore[method-assign]
        self.sink.scout = lambda scenario_id, scout: self.stored.append(scout)  # type: ignore[method-assign]
        scouts = Scouts(
            policy=ScoutPolicy(refinement=policy),
            generator=self.by.generator,  # type: ignore[arg-type]
            preview=self.preview,
            compare=self.select,
            differ=self.differ,
        )
        self.by = replace(self.by, scouts=scouts)

    def differ(self, looks: Sequence[Attempt]) -> np.ndarray:
        """Names those that it is asked of."""
        return np.array([[[look.index for look in looks]]], np.float32)

    def preview(self, scenario: Scenario, number: int, video: Video) -> Path:
        path = Path(f"scout-{number}.mp4")
        self.previews.append(weakref.ref(video.frames))
        self.shown[path] = int(video.frames[0, 0, 0, 0])
        return path


def test_many_looks_then_one_take_and_one_critique() -> None:
    made = Scouted(ONE_ROUND)
    loop, names = live(made)
    assert names == [
        *("plan", *["scout", "preview"] * 4, "rank", *["scout", "preview"] * 2, "rank"),
        *("generate", "encode", "critique"),
    ]
    brightest = max(
        (scout for scout in made.stored if scout.stage == 1), key=lambda s: made.shown[s.video_path]
    )
    (take,) = loop.attempts
    assert take.prompt == brightest.prompt and take.critique is not None


def test_of_finalists_the_winner_alone_is_judged() -> None:
    made = Scouted(replace(OF_FINALISTS, settings=replace(OF_FINALISTS.settings, loops=0)))
    loop, names = live(made)
    assert names[names.index("generate") :] == [*["generate", "encode"] * 2, "select", "read", "critique"]
    assert sum(attempt.critique is not None for attempt in loop.attempts) == 1


def test_the_plans_prompt_is_not_scouted_before_the_plan_is_there() -> None:
    steps, begun = before_the_plan(Scouted(ONE_ROUND))
    assert [task.name for task in begun].count("scout") == 2, "those of the brief text"
    do(begun[0])
    next(steps)
    assert begun[-1].name == "scout"


def test_frames_of_previews_are_freed() -> None:
    made = Scouted(ONE_ROUND)
    alive: list[int] = []
    keep = made.stored.append

    def kept(scenario_id: str, scout: Scout) -> None:
        gc.collect()
        alive.append(sum(frames() is not None for frames in made.previews))
        keep(scout)

    made.sink.scout = kept  # type: ignore[method-assign]
    live(made)
    assert len(alive) == 6 and max(alive) == 0


@pytest.mark.parametrize("lost", [0, 3])
def test_a_stored_scout_that_is_gone_is_made_again_alone(lost: int) -> None:
    whole = Scouted(ONE_ROUND)
    loop, _ = live(whole)
    past = history(scouts=(scout for scout in whole.stored[:4] if scout.number != lost))
    again = Scouted(ONE_ROUND, FakeModels())
    again.shown |= whole.shown
    found, names = live(again, past)
    assert names.count("scout") == 1 + 2 and found.outcome == loop.outcome
    assert again.stored[0].number == lost


TOGETHER = replace(ONE_ROUND, settings=replace(ONE_ROUND.settings, scouts=7, scout_batch=3))


def test_scouts_of_a_scenario_share_forwards_and_never_wait_for_the_plan_in_vain() -> None:
    made = Scouted(TOGETHER)
    _, names = live(made)
    batches = [prompts for _, prompts in made.by.generator.batches]  # type: ignore[attr-defined]
    assert [len(batch) for batch in batches] == [2, 2, 3, 2, 2]
    assert [{revision for revision, _ in batch} for batch in batches[:3]] == [{0}, {0}, {1}]
    assert names.count("scout") == 5 and names.count("preview") == 7 + 4
    looks = {scout.number: scout for scout in made.stored}
    assert list(looks) == list(range(11)) and all(s.form.together == 3 for s in made.stored)
    assert [looks[number].timings["scout"] for number in (0, 4)] == [1 / 2, 1 / 3], "a share of the batch"


@pytest.mark.parametrize("lost", [{0}, {5}, {4, 6}, {0, 1, 2, 3}])
def test_what_is_lost_is_made_again_in_the_same_company(lost: set[int]) -> None:
    """The fake models shade a look by the size of its batch, as kernels may round by it."""
    whole = Scouted(TOGETHER)
    loop, _ = live(whole)
    past = history(scouts=(scout for scout in whole.stored[:7] if scout.number not in lost))
    again = Scouted(TOGETHER, FakeModels())
    again.shown |= {s.video_path: whole.shown[s.video_path] for s in past.scouts}
    found, _ = live(again, past)
    assert found.outcome == loop.outcome and again.shown == whole.shown
    assert {scout.number for scout in again.stored[: len(lost)]} == lost


RESTARTED = replace(OF_FINALISTS, settings=replace(OF_FINALISTS.settings, loops=0, finish_restarts=2))


def test_finalists_are_told_once_where_the_last_looks_disagree() -> None:
    made = Scouted(RESTARTED)
    loop, names = live(made)
    assert names[names.index("differ") :].count("generate") == 2 and names.count("differ") == 1
    last = [float(scout.number) for scout in made.stored if scout.stage == 1]
    asked = made.by.generator.restarts  # type: ignore[attr-defined]
    assert [(one.times, one.steps, one.share) for one in asked] == [(2, 4, 0.25)] * 2
    assert [one.differ.ravel().tolist() for one in asked] == [last] * 2 and len(last) == 3
    first = replace(loop.attempts[0], critique=None, selector_scores={})
    past = history(scouts=made.ranked, attempts=[first])
    again = Scouted(RESTARTED)
    again.shown |= made.shown
    found, names = live(again, past)
    assert names.count("scout") == 0 and names.count("differ") == 1 and names.count("generate") == 1
    assert [one.differ.tolist() for one in again.by.generator.restarts] == [asked[0].differ.tolist()]  # type: ignore[attr-defined]
    assert [take.prompt for take in found.attempts] == [take.prompt for take in loop.attempts]
