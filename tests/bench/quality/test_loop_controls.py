"""Controls beside a known run: what is asked of the generator, and which gain counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sliding import SlidingSquare

from bench.quality import loop_controls
from bench.quality.loop_controls import asked_of, control_dataset, make_control, measure, settings_of
from bench.quality.prompt_kinds import SUFFIX_SENTENCE
from engine.datasets.physics_iq import open_dataset, read_descriptions
from engine.demo.layout import write_dataset
from engine.errors import ScorerError
from engine.runs.store import RunStore
from engine.settings.config import LoopConfig, RunConfig, write_config
from engine.types import Attempt, Frames, Outcome, PhysicsPlan, PlanReply, Prompt
from engine.video.files import write_mp4

MANIFEST = '{"manifest_version": 1, "config": {}, "models": {}}'
SCENES = [SlidingSquare(number) for number in range(2)]
TRUE = [scene.render(1, "center")[24:] for scene in SCENES]


def frozen(frames: Frames) -> Frames:
    return np.repeat(frames[:1], len(frames), axis=0)


def plan_of(number: int) -> PhysicsPlan:
    return replace(SCENES[number].truth, still=("wall", f"scene {number}"))


def write_run(dataset: Path, out: Path, takes: Sequence[Sequence[Frames]], *, planned: bool) -> None:
    """A run whose last take is chosen; `planned` with the critic's plan of each scenario."""
    scenarios = open_dataset(dataset).scenarios(8.0)
    with RunStore.create(out, scenarios) as store:
        (out / "manifest.json").write_text(MANIFEST)
        write_config(RunConfig(dataset=dataset, out=out), out / "config.toml")
        for number, (scenario, found) in enumerate(zip(scenarios, takes, strict=True)):
            if planned:
                store.plan(scenario.id, PlanReply(plan=plan_of(number), raw="{}", num_tokens=1, seconds=0.1))
            attempts = []
            for index, frames in enumerate(found):
                path = store.video_path(scenario.id, index)
                write_mp4(out / path, frames, 8.0)
                prompt = Prompt(text=scenario.text, negative="", seed=1, revision=index)
                attempts.append(Attempt(index=index, prompt=prompt, video_path=path, critique=None))
                store.attempt(scenario.id, attempts[-1])
            store.outcome(
                Outcome(scenario_id=scenario.id, attempts=tuple(attempts), chosen=len(found) - 1, stopped="x")
            )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first take is frozen, the plan's one is true and chosen."""
    root = tmp_path_factory.mktemp("controls")
    write_dataset(root / "scenes", SCENES, views=("perspective-center",))
    write_run(root / "scenes", root / "run", [[frozen(true), true] for true in TRUE], planned=True)
    return root / "run"


def test_only_the_gain_above_the_best_control_counts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator to which filler helps as much as the plan: then the loop has gained nothing."""
    asked: dict[str, tuple[str, ...]] = {}

    def run_loop(dataset: Path, out: Path, *, resume: bool, extra: Sequence[str]) -> None:
        kind = dataset.parent.name
        asked[kind] = tuple(row.text for row in read_descriptions(dataset))
        assert resume and list(extra)[:6] == ["--loops", "0", "--first-prompt", "brief", "--seed", "0"]
        write_run(
            dataset, out, [[true if kind == "filler" else frozen(true)] for true in TRUE], planned=False
        )

    monkeypatch.setattr(loop_controls, "run_loop", run_loop)
    document: dict[str, Any] = measure(run, tmp_path)
    assert document["n"] == 2 and document["best_control"] == "filler"
    assert document["chosen"]["mean"] > 99.0 > 70.0 > document["first_take"]["mean"]
    assert document["above_best_control"]["chosen"]["mean"] == pytest.approx(0.0, abs=0.2)
    assert document["minus_first"]["suffix"]["mean"] == pytest.approx(0.0, abs=0.2)
    assert document["minus_first"]["filler"]["mean"] > 25.0
    assert all(SUFFIX_SENTENCE in text for text in asked["suffix"]) and len(asked["suffix"]) == 4
    assert "scene 1" in asked["other_plan"][0] and "scene 0" in asked["other_plan"][1]
    assert not any("scene" in text.replace("The scene is filmed", "") for text in asked["filler"])


def test_a_control_is_the_dataset_with_other_texts(run: Path, tmp_path: Path) -> None:
    dataset = run.parent / "scenes"
    texts = {row.scene: f"Text of {row.scene}." for row in read_descriptions(dataset)}
    for _ in range(2):  # resumed by repeating it
        control_dataset(dataset, tmp_path, texts)
    rows = read_descriptions(tmp_path)
    assert [row.text for row in rows] == [texts[row.scene] for row in rows]
    before, after = (
        {path.name: path.stat().st_ino for path in folder.rglob("*.mp4")} for folder in (dataset, tmp_path)
    )
    assert before == after  # links, not copies
    assert read_descriptions(dataset)[0].text == SCENES[0].brief


def test_a_run_without_plans_has_no_controls(run: Path) -> None:
    with pytest.raises(ScorerError, match="no readable plan"):
        asked_of(run.parent / "scenes", {})


def test_a_run_that_is_not_finished_has_no_controls(run: Path, tmp_path: Path) -> None:
    dataset, part = run.parent / "scenes", tmp_path / "part"
    scenarios = open_dataset(dataset).scenarios(8.0)
    RunStore.create(part, scenarios).close()
    write_config(RunConfig(dataset=dataset, out=part), part / "config.toml")
    for refused in (lambda: measure(part, tmp_path), lambda: make_control(part, tmp_path, "filler")):
        with pytest.raises(ScorerError, match=rf"2 unfinished scenarios in {part}"):
            refused()


def test_controls_take_steps_again_as_the_run_does() -> None:
    plain = RunConfig(dataset=Path("a"), out=Path("b"))
    again = replace(plain, loop=LoopConfig(finish_restarts=2, restart_steps=3))
    assert "--finish-restarts" not in settings_of(plain)
    words = settings_of(again)
    told = words.index("--finish-restarts")
    assert words[told : told + 4] == ["--finish-restarts", "2", "--restart-steps", "3"]
