"""The measurement of the bundled models: arms, intervals, plan matching and critic figures on a known run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sliding import SlidingSquare

from bench.analysis.bootstrap import mean_ci95
from bench.quality.critic_figures import JudgedTake, critic_figures, motion_truth, read_truths
from bench.quality.demo_quality import ARMS, make_dataset, measure, print_table, run_loop
from engine.critics.qwen_vl.plan_match import matched_share, plan_attributes
from engine.datasets.physics_iq import open_dataset
from engine.demo.layout import write_dataset
from engine.errors import ConfigError, ScorerError
from engine.runs.store import RunStore
from engine.settings.config import RunConfig, write_config
from engine.types import (
    Attempt,
    Critique,
    Fault,
    Frames,
    Outcome,
    PhysicsPlan,
    PlanEvent,
    PlanMotion,
    PlanObject,
    PlanReply,
    PlanRest,
    Prompt,
    Scenario,
    Verdict,
)
from engine.video.files import write_mp4

PLAN = PhysicsPlan(
    objects=(PlanObject(name="ball", trait="red"), PlanObject(name="block", trait="tall blue")),
    motion=(PlanMotion(object="red ball", direction="left", speed="fast"),),
    events=(
        PlanEvent(t=1.0, what="the red ball turns back"),
        PlanEvent(t=3.0, what="The red ball turns back."),
    ),
    rest=(PlanRest(object="red ball", t=4.0), PlanRest(object="blue block", t=None)),
    still=("table",),
)
NUM_ATTRIBUTES = 10

MANIFEST = (
    '{"manifest_version": 1, "argv": ["/home/me/cli.py"], "seeds": {"a": 1}, '
    '"config": {"dataset": "/home/me/scenes", "out": "/home/me/run", "limit": 3}, '
    '"models": {"critic": {"folder": "/home/me/critic", "sha256": {"model.safetensors": "ab"}}}}'
)
PUBLISHED = {
    "manifest_version": 1,
    "config": {"limit": 3},
    "models": {"critic": {"model.safetensors": "ab"}},
}


def test_attributes_of_a_plan() -> None:
    attributes = plan_attributes(PLAN)
    assert len(attributes) == NUM_ATTRIBUTES
    assert attributes["motion:red ball:direction"] == "left"
    assert attributes["event:the red ball turns back#1"] == "3.0"
    assert attributes["rest:blue block"] == "never"
    assert attributes["camera"] == "static"


@pytest.mark.parametrize(
    ("found", "held"),
    [
        (PLAN, 10),
        (replace(PLAN, motion=(PlanMotion(object="red ball", direction="right", speed="fast"),)), 9),
        (replace(PLAN, motion=()), 8),
        (replace(PLAN, events=(PlanEvent(t=1.5, what=PLAN.events[0].what), PLAN.events[1])), 10),
        (replace(PLAN, events=(PlanEvent(t=1.6, what=PLAN.events[0].what), PLAN.events[1])), 9),
        (replace(PLAN, rest=(PlanRest(object="red ball", t=None), PlanRest(object="blue block", t=4.0))), 8),
        (replace(PLAN, rest=(PlanRest(object="red ball", t=3.5), PLAN.rest[1])), 10),
        (replace(PLAN, still=(), camera="panning"), 8),
        (replace(PLAN, still=("table", "wall")), 10),
    ],
)
def test_share_of_matched_attributes(found: PhysicsPlan, held: int) -> None:
    assert matched_share(PLAN, found) == pytest.approx(held / NUM_ATTRIBUTES)


def test_interval_of_independent_and_of_paired_cases() -> None:
    values = list(np.random.default_rng(0).normal(50.0, 10.0, 400))
    names = [str(index) for index in range(400)]
    result = mean_ci95(values, names)
    low, high = result["ci95"]
    assert result["mean"] == pytest.approx(np.mean(values))
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / 20, rel=0.1)
    assert mean_ci95(values, names) == result
    by_four = mean_ci95(list(np.repeat(values[:100], 4)), list(np.repeat(names[:100], 4)))["ci95"]
    assert by_four[1] - by_four[0] == pytest.approx(2 * (high - low), rel=0.25)


def critique(verdict: Verdict, revised: PhysicsPlan | None) -> Critique:
    return Critique(
        verdict=verdict,
        score=None if verdict is Verdict.UNREADABLE else 50.0,
        seen=(),
        expected=(),
        findings=(),
        fault=Fault.NONE,
        revised=revised,
        raw="{}",
        num_tokens=1,
        seconds=0.0,
    )


def reply(plan: PhysicsPlan | None) -> PlanReply:
    return PlanReply(plan=plan, raw="{}", num_tokens=1, seconds=0.0)


def test_critic_figures_by_hand() -> None:
    poor = replace(PLAN, motion=())
    takes = [
        JudgedTake(scenario_id="a", critique=critique(verdict, revised), truth=truth)
        for verdict, revised, truth in (
            (Verdict.ACCEPT, None, Verdict.ACCEPT),
            (Verdict.ACCEPT, None, Verdict.REVISE),
            (Verdict.REVISE, PLAN, Verdict.REVISE),
            (Verdict.REVISE, poor, Verdict.REVISE),
            (Verdict.UNREADABLE, None, Verdict.REVISE),
        )
    ]
    figures = critic_figures(takes, {"a": reply(poor), "b": reply(None)}, {"a": PLAN, "b": PLAN})
    assert figures["verdict_accuracy"] == pytest.approx(3 / 5)
    assert figures["balanced_accuracy"] == pytest.approx((1 + 2 / 4) / 2)
    assert figures["true_attributes"] == pytest.approx((1 + 0.8 + 0) / 3)
    assert figures["true_attributes_plan"] == pytest.approx(0.8 / 2)
    assert figures["unreadable"] == pytest.approx(2 / 7)
    assert figures["num_truly_acceptable"] == 1
    nothing = critic_figures([], {}, {})
    assert nothing["verdict_accuracy"] is None and nothing["unreadable"] is None


def test_true_verdict_of_a_take() -> None:
    frames = SlidingSquare(0).render(1, "center")
    last, answer = frames[23:24], frames[24:]
    assert motion_truth(last, answer, answer) is Verdict.ACCEPT
    assert motion_truth(last, np.repeat(last, 40, axis=0), answer) is Verdict.REVISE


def record(store: RunStore, scenario: Scenario, takes: list[Frames], *, accepted: bool) -> None:
    """A scenario with these takes, the last of which is chosen."""
    plan = SlidingSquare(0).truth
    store.plan(scenario.id, reply(plan))
    attempts = []
    for index, frames in enumerate(takes):
        path = store.video_path(scenario.id, index)
        write_mp4(store.folder / path, frames, 8.0)
        last = index == len(takes) - 1
        verdict = Verdict.ACCEPT if last and accepted else Verdict.REVISE
        attempt = Attempt(
            index=index,
            prompt=Prompt(
                text="A square slides.", negative="", seed=1, revision=index, plan=plan if index else None
            ),
            video_path=path,
            critique=critique(verdict, plan),
        )
        store.attempt(scenario.id, attempt)
        attempts.append(attempt)
    chosen = len(takes) - 1
    store.outcome(
        Outcome(scenario_id=scenario.id, attempts=tuple(attempts), chosen=chosen, stopped="accepted")
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes: retaken once with success, accepted at once, failed."""
    root = tmp_path_factory.mktemp("quality")
    scenes = [SlidingSquare(number) for number in range(3)]
    write_dataset(root / "scenes", scenes, views=("perspective-center",))
    scenarios = open_dataset(root / "scenes").scenarios(8.0)
    true = [scene.render(1, "center")[24:] for scene in scenes]
    with RunStore.create(root / "run", scenarios) as store:
        (root / "run" / "manifest.json").write_text(MANIFEST)
        write_config(RunConfig(dataset=root / "scenes", out=root / "run"), root / "run" / "config.toml")
        record(store, scenarios[0], [np.repeat(true[0][:1], 40, axis=0), true[0]], accepted=True)
        record(store, scenarios[1], [true[1]], accepted=True)
        store.outcome(Outcome(scenario_id=scenarios[2].id, attempts=(), failure="the clip is damaged"))
    return root / "run"


@pytest.fixture(scope="module")
def document(run: Path) -> dict[str, Any]:
    return measure(run, run.parent / "baselines")


def test_measurement_of_a_known_run(document: dict[str, Any]) -> None:
    assert document["n"] == 2 and document["num_failed"] == 1 and document["num_takes"] == 3
    assert document["chosen"]["mean"] > 99.0 and document["plan_prompt"]["mean"] > 99.0
    assert document["first_take"]["mean"] < 70.0
    assert document["oracle"]["mean"] >= document["chosen"]["mean"]
    assert document["frozen"]["mean"] < document["extrapolated"]["mean"] < document["chosen"]["mean"]
    gain = document["chosen_minus_first"]
    assert gain["mean"] == pytest.approx(document["chosen"]["mean"] - document["first_take"]["mean"])
    assert gain["ci95"][0] <= gain["mean"] <= gain["ci95"][1]
    assert document["plan_minus_first"] == gain and document["chosen_minus_plan"]["mean"] == 0.0
    assert document["critic"]["verdict_accuracy"] == 1.0
    assert document["critic"]["true_attributes"] == 1.0
    assert document["critic"]["unreadable"] == 0.0
    faults = document["critic"]["faults"]
    assert faults["pairs"] == {"missing physical clues": {"none": 1}}, "of the frozen take, told the brief"
    assert faults["fault_accuracy"]["mean"] == 0.0
    assert document["by_kind"]["sliding-square"]["n"] == document["by_category"]["Solid Mechanics"]["n"] == 2
    assert set(ARMS) <= document.keys() and document["manifest"] == PUBLISHED


def test_table_shows_every_arm(document: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_table(document, Console(width=200))
    shown = capsys.readouterr().out
    assert "sliding-square" in shown and "verdict_accuracy: 1.000" in shown
    assert "faults fault_accuracy: 0.000" in shown and "faults pairs" not in shown


def test_training_seeds_and_missing_truth_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)-7 is a training scene: .* --seed \d{7}`"):
        make_dataset(tmp_path, seed0=7, count=1, views=("perspective-center",), workers=1)
    with pytest.raises(ScorerError, match=r"9999_x\.json does not exist"):
        read_truths(run.parent / "scenes", ["9999_x"])


def test_a_loop_that_leaves_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="left no usable run"):
        run_loop(tmp_path / "no-dataset", tmp_path / "run", resume=False, extra=())


def test_an_existing_run_needs_resume(run: Path) -> None:
    with pytest.raises(ScorerError, match="already holds a run"):
        run_loop(run.parent / "scenes", run, resume=False, extra=())


def test_an_unfinished_run_is_not_measured(run: Path, tmp_path: Path) -> None:
    dataset = run.parent / "scenes"
    RunStore.create(tmp_path / "run", open_dataset(dataset).scenarios(8.0)).close()
    write_config(RunConfig(dataset=dataset, out=tmp_path / "run"), tmp_path / "run" / "config.toml")
    with pytest.raises(ScorerError, match=r"3 unfinished scenarios in"):
        measure(tmp_path / "run", tmp_path / "baselines")


def test_the_finished_part_of_a_run_can_be_measured(
    run: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    """The third scene has takes and a plan and no outcome: none of it counts, and the rest is as before."""
    dataset, part = run.parent / "scenes", tmp_path / "run"
    scenarios = open_dataset(dataset).scenarios(8.0)
    true = [SlidingSquare(number).render(1, "center")[24:] for number in range(3)]
    with RunStore.create(part, scenarios) as store:
        (part / "manifest.json").write_text(MANIFEST)
        write_config(RunConfig(dataset=dataset, out=part), part / "config.toml")
        record(store, scenarios[0], [np.repeat(true[0][:1], 40, axis=0), true[0]], accepted=True)
        record(store, scenarios[1], [true[1]], accepted=True)
        store.plan(scenarios[2].id, reply(PLAN))
        path = store.video_path(scenarios[2].id, 0)
        write_mp4(part / path, np.repeat(true[2][:1], 40, axis=0), 8.0)
        prompt = Prompt(text="A square slides.", negative="", seed=1, revision=0)
        judged = critique(Verdict.UNREADABLE, None)
        store.attempt(scenarios[2].id, Attempt(index=0, prompt=prompt, video_path=path, critique=judged))
    found = measure(part, tmp_path / "baselines", partial=True)
    assert (found["num_pending"], found["num_failed"], document["num_pending"]) == (1, 0, 0)
    for key in (*ARMS, "n", "oracle", "chosen_minus_first", "num_takes", "critic", "by_kind"):
        assert found[key] == document[key], key
    assert found["unscored"] == []
