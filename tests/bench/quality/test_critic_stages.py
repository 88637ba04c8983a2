"""With and without stages: figures by hand, and a tiny critic that is asked about takes of a known run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from critiques import bare_critique
from sliding import SlidingSquare
from tiny_vlm import save_tiny_vlm

from bench.quality import critic_faults, critic_reliability, critic_stages
from bench.quality.critic_stages import OPENINGS, STAGED, asked, document, main, swapped
from engine.datasets.physics_iq import open_dataset, read_descriptions
from engine.demo.layout import write_dataset
from engine.demo.scenes import WIDE, all_kinds, make_scene
from engine.demo.scenes.seeds import TUNING
from engine.runs.manifest import weight_digests
from engine.runs.store import RunStore
from engine.settings.config import CriticConfig, RunConfig, write_config
from engine.types import (
    Attempt,
    Critique,
    Fault,
    Outcome,
    PhysicsPlan,
    PlanReply,
    Prompt,
    Scenario,
    Verdict,
    Video,
)
from engine.video.files import write_mp4

SIDECAR = {"num_prefix_frames": 2, "num_take_frames": 2, "frame_px": 32, "max_new_tokens": 96}
TRUTH = SlidingSquare(0).truth
RAW = '{"seen":["', '"],"fault":"none","verdict":"accept","score":90,"plan":{}}'
ACCEPTS = replace(bare_critique(90.0), verdict=Verdict.ACCEPT, raw="b".join(RAW))
REVISES = replace(bare_critique(20.0), fault=Fault.MISSING_CLUES, raw="a".join(RAW))
NOTHING = bare_critique(None)


def attempt(index: int, critique: Critique | None, path: str = "a.mp4") -> Attempt:
    plan = TRUTH if index else None
    prompt = Prompt(text="A square slides.", negative="", seed=1, revision=index, plan=plan)
    return Attempt(index=index, prompt=prompt, video_path=Path(path), critique=critique)


def outcomes(*scenes: tuple[Critique, ...]) -> dict[str, Outcome]:
    return {
        str(number): Outcome(
            scenario_id=str(number),
            attempts=tuple(attempt(index, critique) for index, critique in enumerate(critiques)),
            chosen=0,
        )
        for number, critiques in enumerate(scenes)
    }


def test_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each scene a bad first take and a good second one; the metrics of a case stand for its score."""
    for module in (critic_faults, critic_reliability):
        monkeypatch.setattr(module, "case_score", lambda score: SimpleNamespace(score=score))
    cases: Any = [
        (index, SimpleNamespace(scenario_id=str(number), scene=f"s-{number}", metrics=score))
        for number in range(2)
        for index, score in enumerate((65.0 if number else 20.0, 95.0))
    ]
    forms = {
        STAGED: outcomes((REVISES, ACCEPTS), (REVISES, ACCEPTS)),
        "unstaged": outcomes((ACCEPTS, ACCEPTS), (REVISES, NOTHING)),
    }
    found = document(forms, cases, {"0": TRUTH, "1": TRUTH})
    assert (found["num_scenes"], found["num_takes"]) == (2, 4)
    staged, unstaged = found["forms"].values()
    assert staged["balanced_accuracy"] == {"mean": 1.0, "ci95": [1.0, 1.0]}
    assert unstaged["balanced_accuracy"]["mean"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert unstaged["balanced_accuracy_sure"]["mean"] == pytest.approx((0 + 1 / 2) / 2), "65 is near 70"
    assert unstaged["unreadable"]["mean"] == 1 / 4 and staged["unreadable"]["mean"] == 0.0
    assert unstaged["accepted"]["mean"] == 2 / 4 and unstaged["num_acceptable"] == 2
    assert staged["calibration_error"] == pytest.approx((20.0 * 2 + 10.0 * 2) / 4)
    assert staged["faults"]["fault_accuracy"]["mean"] == 1.0, "of the two first takes, told the brief"
    assert unstaged["faults"]["fault_accuracy"]["mean"] == 0.5
    less = found["difference"]["unstaged"]
    assert less["balanced_accuracy"]["mean"] == pytest.approx(1 - 1 / 2)
    assert less["balanced_accuracy"]["ci95"] == pytest.approx([0.5, 0.5]), "each scene has one error"
    assert less["balanced_accuracy_sure"]["mean"] == pytest.approx(1 - 1 / 4)
    assert less["fault_accuracy"]["mean"] == 0.5 and less["fault_accuracy"]["ci95"] == [0.0, 1.0]


def test_without_both_kinds_of_takes_there_is_no_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic_reliability, "case_score", lambda score: SimpleNamespace(score=score))
    monkeypatch.setattr(critic_faults, "case_score", lambda score: SimpleNamespace(score=score))
    cases: Any = [(0, SimpleNamespace(scenario_id="0", scene="s-0", metrics=95.0))]
    found = document({STAGED: outcomes((ACCEPTS,)), "unstaged": outcomes((ACCEPTS,))}, cases, {"0": TRUTH})
    assert found["forms"][STAGED]["balanced_accuracy"] is None
    assert found["difference"]["unstaged"] == dict.fromkeys(
        ("balanced_accuracy", "balanced_accuracy_sure", "fault_accuracy")
    )


def test_swapped_stages_are_those_of_the_next_scene_that_has_some() -> None:
    scenes = {"0": "x", "1": "y", "2": "x", "3": "z"}
    opening = swapped(outcomes((REVISES, ACCEPTS), (NOTHING,), (ACCEPTS,), (REVISES,)), scenes)
    assert opening is not None
    a, b = '{"seen":["a"],"fault":"', '{"seen":["b"],"fault":"'

    def told(number: int, index: int) -> str:
        scenario: Any = SimpleNamespace(id=str(number))
        return opening(scenario, attempt(index, None))

    assert told(0, 0) == told(0, 1) == a, "of the last one: scenario 2 shows the same scene"
    assert told(1, 0) == b and told(2, 0) == a
    assert [told(3, 0), told(3, 1)] == [a, b], "the circle begins anew"
    assert swapped(outcomes((ACCEPTS,), (NOTHING,)), scenes) is None, "the second one's stages are unknown"
    assert swapped(outcomes((ACCEPTS,)), scenes) is None


Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A run of two scenes by its critic's digest: a frozen take, and the true one."""
    root = tmp_path_factory.mktemp("stages")
    scenes = [SlidingSquare(number) for number in range(2)]
    write_dataset(root / "scenes", scenes, views=("perspective-center",))
    critic = save_tiny_vlm(root / "critic", json.dumps(SIDECAR))
    config = RunConfig(
        dataset=root / "scenes",
        out=root / "run",
        critic=CriticConfig(name=str(critic)),
        device="cpu",
        dtype="fp32",
    )

    def made(name: str) -> Path:
        run = root / name
        scenarios = open_dataset(root / "scenes").scenarios(8.0)
        with RunStore.create(run, scenarios) as store:
            write_config(config, run / "config.toml")
            models = {"critic": {"sha256": weight_digests(critic)}}
            (run / "manifest.json").write_text(json.dumps({"manifest_version": 1, "models": models}))
            for scenario, scene in zip(scenarios, scenes, strict=True):
                record(store, scenario, scene)
        return run

    return made


def record(store: RunStore, scenario: Scenario, scene: SlidingSquare) -> None:
    store.plan(scenario.id, PlanReply(plan=TRUTH, raw="{}", num_tokens=1, seconds=0.0))
    true = scene.render(1, "center")[24:]
    attempts = []
    for index, critique in enumerate((REVISES, ACCEPTS, None)):
        path = store.video_path(scenario.id, index)
        write_mp4(store.folder / path, np.repeat(true[:1], 40, axis=0) if index == 0 else true, 8.0)
        attempts.append(attempt(index, critique, str(path)))
        store.attempt(scenario.id, attempts[-1])
    store.outcome(Outcome(scenario_id=scenario.id, attempts=tuple(attempts), chosen=1, stopped="accepted"))


def test_a_tiny_critic_end_to_end(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights write nothing that can be read, unless they are constrained to it."""
    run, out = make("run"), tmp_path / "critic_stages.json"
    assert main(["--run", str(run), "--out", str(out), "--jobs", "1"]) == 0, capsys.readouterr().out
    found = json.loads(out.read_text())
    assert list(found["forms"]) == [STAGED, *OPENINGS, "swapped_stages"]
    assert found["kind"] == "critic_stages" and (found["num_scenes"], found["num_takes"]) == (2, 4)
    unread = {name: form["unreadable"]["mean"] for name, form in found["forms"].items()}
    assert unread == {STAGED: 0.0, **dict.fromkeys(unread, 0.0), "unstaged_free": 1.0}
    assert found["forms"][STAGED]["balanced_accuracy"]["mean"] == 1.0
    assert found["forms"]["unstaged"]["faults"]["num"] == 2
    assert any("trained with stages only" in note for note in found["notes"])
    assert str(run.parent) not in out.read_text(), "whose machine it was is nobody's business"
    assert "4 takes of 2 scenes" in capsys.readouterr().out


def test_a_part_of_a_run_and_the_stages_again(make: Make, tmp_path: Path) -> None:
    run, out = make("part"), tmp_path / "critic_stages.json"
    given = ["--run", str(run), "--out", str(out), "--jobs", "1"]
    assert main([*given, "--limit", "1", "--again"]) == 0
    found = json.loads(out.read_text())
    assert found["num_takes"] == 2 and list(found["forms"]) == [STAGED, "staged_again", *OPENINGS], (
        "there is no other scene whose stages could be told"
    )
    assert found["command"] == "python -m bench.quality.critic_stages --run part --limit 1 --again"


def test_a_run_of_another_critic_is_refused(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make("other")
    models = {"critic": {"sha256": {"model.safetensors": "ab"}}}
    (run / "manifest.json").write_text(json.dumps({"manifest_version": 1, "models": models}))
    assert main(["--run", str(run), "--out", str(tmp_path / "no.json")]) == 2
    assert "had other weights" in capsys.readouterr().err and not (tmp_path / "no.json").exists()


def test_scenes_that_were_looked_at_are_refused(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, name = make("seen"), make_scene(TUNING.first, all_kinds(WIDE)).name
    rows = [
        SimpleNamespace(scenario_id=row.scenario_id, scene=f"trimmed-{name}")
        for row in read_descriptions(run.parent / "scenes")
    ]
    monkeypatch.setattr(critic_stages, "read_descriptions", lambda dataset: rows)
    assert main(["--run", str(run), "--out", str(tmp_path / "no.json")]) == 2
    assert "is a tuning scene" in capsys.readouterr().err


def test_a_limit_of_nothing_is_refused(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(make("none")), "--out", str(tmp_path / "no.json"), "--limit", "0"]) == 2
    assert "--limit 0 is below 1" in capsys.readouterr().err


def test_a_critic_is_told_the_plan_that_the_loop_told(make: Make) -> None:
    """Of the brief's take the one of the prefix, of others their own; what nobody judged is left out."""
    run = make("told")
    scenarios = {one.id: one for one in open_dataset(run.parent / "scenes").scenarios(8.0)}
    with RunStore.open(run, read_only=True) as store:
        known = store.outcomes()
    first = replace(TRUTH, still=())
    plans = {key: PlanReply(plan=first, raw="{}", num_tokens=1, seconds=0.0) for key in known}
    seen: list[tuple[int, PhysicsPlan | None, int]] = []

    def ask(scenario: Scenario, take: Attempt, video: Video, plan: PhysicsPlan | None) -> Critique:
        seen.append((take.index, plan, len(video.frames)))
        return ACCEPTS

    found = asked(run, known, scenarios, plans, {"form": ask}, lambda line: None)["form"]
    assert seen == [(0, first, 40), (1, TRUTH, 40)] * 2
    assert [[a.critique for a in outcome.attempts] for outcome in found.values()] == [[ACCEPTS] * 2] * 2
