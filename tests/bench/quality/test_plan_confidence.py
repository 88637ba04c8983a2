"""Facts of plans whose truth is known: what is true by how sure a critic was, and what a threshold leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.quality import plan_confidence
from bench.quality.plan_confidence import ReadPlan, document, main
from bench.quality.take_statistics import tuning_scenes
from engine.critics.qwen_vl.confidence import StatedFact, facts_of
from engine.critics.qwen_vl.plan_match import is_true
from engine.demo.scenes.seeds import TUNING
from engine.machine.streams import HostFence
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanRest

HIT, FALL = PlanEvent(t=1.0, what="the ball hits the block"), PlanEvent(t=2.0, what="the block falls")
LEFT = PlanMotion(object="ball", direction="left", speed="slow")
BALL, BLOCK = PlanRest(object="ball", t=None), PlanRest(object="block", t=2.0)
TRUTH = PhysicsPlan(objects=(), motion=(LEFT,), events=(HIT, FALL), rest=(BALL, BLOCK), still=())


def test_a_fact_is_true_by_what_is_asked_of_it() -> None:
    assert is_true(HIT, TRUTH) == {"event": True, "event what": True}
    assert is_true(PlanEvent(t=1.5, what="The ball hits the block."), TRUTH)["event"]
    assert is_true(PlanEvent(t=1.6, what=HIT.what), TRUTH) == {"event": False, "event what": True}
    assert is_true(PlanEvent(t=1.0, what="the ball turns"), TRUTH) == {"event": False, "event what": False}
    assert is_true(replace(LEFT, speed="fast"), TRUTH) == {"motion": True, "speed": False}
    assert is_true(replace(LEFT, object="cube"), TRUTH) == {"motion": False, "speed": False}
    assert is_true(BALL, TRUTH)["rest"] and is_true(replace(BLOCK, t=2.5), TRUTH)["rest"]
    assert not is_true(replace(BALL, t=4.0), TRUTH)["rest"]
    assert not is_true(replace(BLOCK, t=None), TRUTH)["rest"]


def read(scene: str, *stated: tuple[Any, float, float | None]) -> ReadPlan:
    facts = [StatedFact(fact=fact, probability=p, speed=speed) for fact, p, speed in stated]
    of = {kind: tuple(f.fact for f in facts if isinstance(f.fact, kind)) for kind in (PlanMotion, PlanRest)}
    events = tuple(f.fact for f in facts if isinstance(f.fact, PlanEvent))
    plan = replace(TRUTH, motion=of[PlanMotion], rest=of[PlanRest], events=events)
    return ReadPlan(scene=scene, plan=plan, stated=facts, truth=TRUTH)


WRONG = PlanEvent(t=3.0, what="the ball flies away")


def test_figures_of_plans_that_are_known() -> None:
    plans = [
        read("a-1", (HIT, 0.99, None), (WRONG, 0.6, None), (LEFT, 1.0, 0.4)),
        read("b-2", (replace(FALL, t=4.0), 0.99, None), (BALL, 0.75, None)),
        ReadPlan(scene="c-3", plan=None, stated=[], truth=TRUTH),
    ]
    found = document(plans)
    assert (found["num_scenes"], found["unreadable"]) == (3, 1)
    events = found["by_kind"]["event"]
    assert events["num"] == 3 and events["true"] == pytest.approx(1 / 3)
    assert [(one["from"], one["num"], one["true"]) for one in events["bins"]] == [
        (0.5, 1, 0.0),
        (0.95, 2, 0.5),
    ]
    assert found["by_kind"]["event what"]["true"] == pytest.approx(2 / 3)
    assert found["by_kind"]["speed"]["bins"][0]["stated"] == pytest.approx(0.4)
    assert found["by_kind"]["motion"]["bins"][0]["from"] == 0.95, "sure is in the last bin"
    at = {one["sure"]: one["by_kind"] for one in found["by_threshold"]}
    assert at[0.0]["event"]["stays"] == 1.0 and at[0.0]["motion"]["num"] == 1
    assert at[0.5]["motion"] == {"num": 0, "stays": 0.0, "true": None, "ci95": None}, "its speed was unsure"
    assert at[0.7]["event what"]["stays"] == pytest.approx(2 / 3) and at[0.7]["event what"]["true"] == 1.0
    assert at[0.8]["rest"]["num"] == 0 and at[0.7]["rest"]["num"] == 1
    held = [one["held"]["mean"] for one in found["by_threshold"]]
    assert held[0] > held[-1] > 0


class KnowsAll:
    """A critic that writes the truth of one scene after the other, half sure of all of it."""

    tokenizer = None

    def __init__(self, plans: list[PhysicsPlan]) -> None:
        self.plans = plans

    def plan(self, scenario: Any) -> Any:
        assert scenario.prefix.num_frames == 24 and scenario.text
        plan = self.plans.pop(0)
        stated = [StatedFact(fact=fact, probability=0.6) for fact in facts_of(plan)]
        job = SimpleNamespace(steps_left=1, result=lambda: SimpleNamespace(plan=plan))
        job.answer = SimpleNamespace(facts=lambda tokenizer: stated)

        def launch() -> HostFence:
            job.steps_left = 0
            return HostFence()

        job.launch = launch
        return job


def test_it_asks_about_tuning_scenes_and_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truths = [scene.truth for scene in tuning_scenes("wide", 2)]
    monkeypatch.setattr(plan_confidence, "load_critic", lambda *given, **options: KnowsAll(truths))
    out = tmp_path / "found.json"
    assert main(["--count", "2", "--device", "cpu", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["by_threshold"][0]["held"]["mean"] == 1.0
    assert all(one["true"] in (1.0, None) for one in found["by_kind"].values())
    told = capsys.readouterr().out
    assert "True by stated probability" in told and "100% stay, 100% true" in told
    assert str(tmp_path) not in out.read_text(), "whose machine it was is nobody's business"


def test_held_out_scenes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--count", str(TUNING.count + 1), "--out", str(tmp_path / "no.json")]
    assert main(more) == 2
    assert "held-out scenes" in capsys.readouterr().err and not (tmp_path / "no.json").exists()
