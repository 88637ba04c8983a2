"""The true fault of a take's prompt, as training labels it; shares and counts by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from critiques import bare_critique
from scored_runs import scenario_of

from bench.quality import critic_faults
from bench.quality.critic_faults import FaultTake, fault_figures, fault_takes, true_fault
from engine.demo.scenes import WIDE, all_kinds
from engine.demo.scenes.base import Scene
from engine.demo.scenes.seeds import TUNING
from engine.demo.training.critic_text import ACCEPT_CASE_SCORE
from engine.demo.training.prompts import poor_prompt
from engine.loop.prompting import compile_prompt
from engine.types import (
    Attempt,
    Fault,
    Outcome,
    PhysicsPlan,
    PlanEvent,
    PlanMotion,
    PlanObject,
    PlanRest,
    Prompt,
)

TURNS = "the ball turns back"
TRUTH = PhysicsPlan(
    objects=(PlanObject(name="ball", trait="red"), PlanObject(name="block", trait="tall")),
    motion=(PlanMotion(object="red ball", direction="left", speed="fast"),),
    events=(PlanEvent(t=1.0, what=TURNS), PlanEvent(t=3.0, what=TURNS)),
    rest=(PlanRest(object="red ball", t=4.0), PlanRest(object="block", t=None)),
    still=("table",),
)
MOTION, BALL = TRUTH.motion[0], TRUTH.rest[0]


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (None, Fault.MISSING_CLUES),
        (TRUTH, Fault.MODEL),
        (replace(TRUTH, objects=TRUTH.objects[::-1], still=("Table.",)), Fault.MODEL),
        (replace(TRUTH, events=(replace(TRUTH.events[0], t=1.5), TRUTH.events[1])), Fault.MODEL),
        (replace(TRUTH, objects=TRUTH.objects[:1]), Fault.MISSING_CLUES),
        (replace(TRUTH, motion=()), Fault.MISSING_CLUES),
        (replace(TRUTH, events=TRUTH.events[1:]), Fault.MISSING_CLUES),
        (replace(TRUTH, rest=(BALL,)), Fault.MISSING_CLUES),
        (replace(TRUTH, still=()), Fault.MISSING_CLUES),
        (replace(TRUTH, objects=(*TRUTH.objects, PlanObject(name="cube", trait="blue"))), Fault.WRONG_FACT),
        (replace(TRUTH, motion=(replace(MOTION, direction="right"),)), Fault.WRONG_FACT),
        (replace(TRUTH, motion=(replace(MOTION, speed="slow"),)), Fault.WRONG_FACT),
        (replace(TRUTH, events=(PlanEvent(t=1.6, what=TURNS), TRUTH.events[1])), Fault.WRONG_FACT),
        (replace(TRUTH, rest=(replace(BALL, t=None), TRUTH.rest[1])), Fault.WRONG_FACT),
        (replace(TRUTH, still=("table", "block")), Fault.WRONG_FACT),
        (replace(TRUTH, camera="panning"), Fault.WRONG_FACT),
        (replace(TRUTH, motion=(), still=("block",)), Fault.WRONG_FACT),
    ],
)
def test_the_fault_of_a_plan(told: PhysicsPlan | None, fault: Fault) -> None:
    assert true_fault(told, TRUTH) is fault


class Drawn:
    """A random generator that draws the kind of prompt first, then keeps every other fact."""

    def __init__(self, kind: float) -> None:
        self.draws: Iterator[float] = iter([kind, *[0.0, 0.9] * 20])

    def random(self) -> float:
        return next(self.draws)


def thinned(plan: PhysicsPlan) -> PhysicsPlan:
    keep = iter([True, False] * 20)
    names = ("objects", "motion", "events", "rest", "still")
    return replace(plan, **{name: tuple(e for e in getattr(plan, name) if next(keep)) for name in names})


def test_it_agrees_with_the_labels_of_training() -> None:
    """On scenes of every kind: the same prompt, made of the plan, has the fault that training names."""
    kinds = all_kinds(WIDE)
    for scene in TUNING.scenes()[: len(kinds)]:
        brief, truth = scene.brief, scene.truth
        other = scene.kind.sample(np.random.default_rng([scene.seed, 5]))
        wrong = Scene(scene.kind, scene.seed, other).truth
        for kind, told in ((0.1, None), (0.3, truth), (0.55, thinned(truth)), (0.7, wrong)):
            rng: Any = Drawn(kind)
            text, label = poor_prompt(brief, truth, wrong, rng)
            assert text == (brief if told is None else compile_prompt(brief, told))
            assert true_fault(told, truth) is label, f"{scene.name}, {label}"


def take(scene: str, true: Fault, stated: Fault | None) -> FaultTake:
    return FaultTake(scene=scene, true=true, stated=stated)


def test_figures_by_hand() -> None:
    found = fault_figures(
        [
            take("a", Fault.MISSING_CLUES, Fault.MISSING_CLUES),
            take("a", Fault.MISSING_CLUES, Fault.NONE),
            take("b", Fault.MISSING_CLUES, None),
            take("b", Fault.WRONG_FACT, Fault.WRONG_FACT),
            take("c", Fault.WRONG_FACT, Fault.WRONG_FACT),
            take("c", Fault.WRONG_FACT, Fault.MISSING_CLUES),
        ]
    )
    assert (found["num"], found["num_named"]) == (6, 4)
    assert found["fault_accuracy"]["mean"] == pytest.approx(3 / 6)
    assert found["fault_accuracy_balanced"]["mean"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert found["fault_accuracy_named"]["mean"] == pytest.approx(3 / 4)
    assert found["pairs"] == {
        "missing physical clues": {"missing physical clues": 1, "none": 1, "unreadable": 1},
        "wrong fact": {"wrong fact": 2, "missing physical clues": 1},
    }
    assert found["fault_accuracy"]["ci95"] == [0.5, 0.5], "half of those of every scene"


def test_without_takes_there_is_no_figure() -> None:
    found = fault_figures([])
    assert found["num"] == 0 and found["pairs"] == {}
    assert all(found[key] is None for key in found if key.startswith("fault_accuracy"))


def test_only_critiqued_takes_that_are_not_acceptable_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics of a case stand for its score here."""
    monkeypatch.setattr(critic_faults, "case_score", lambda score: SimpleNamespace(score=score))
    scenario = scenario_of(1)
    judged = replace(bare_critique(40.0), fault=Fault.WRONG_FACT)
    critiques = [judged, replace(judged, fault=Fault.MODEL), judged, None, bare_critique(None)]
    attempts = tuple(
        Attempt(
            index=index,
            prompt=Prompt(text="a", negative="", seed=0, revision=0, plan=TRUTH if index else None),
            video_path=Path("a.mp4"),
            critique=critique,
        )
        for index, critique in enumerate(critiques)
    )
    scores = [ACCEPT_CASE_SCORE - 1, 10.0, ACCEPT_CASE_SCORE, 10.0, 10.0]
    cases: Any = [
        (index, SimpleNamespace(scenario_id=scenario.id, scene="s-1", metrics=score))
        for index, score in enumerate(scores)
    ]
    outcomes = {scenario.id: Outcome(scenario_id=scenario.id, attempts=attempts, chosen=0)}
    assert fault_takes(outcomes, cases, {scenario.id: TRUTH}) == [
        take("s-1", Fault.MISSING_CLUES, Fault.WRONG_FACT),
        take("s-1", Fault.MODEL, Fault.MODEL),
        take("s-1", Fault.MODEL, None),
    ]
