"""From scored runs, or a list of takes, to a probe by which the stored takes are chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_runs import Made, make_run

from bench.quality.fit_states import main
from engine.build.probing import selector_settings
from engine.errors import ConfigError, StoreError
from engine.loop.selection import reselect
from engine.loop.state_probe import PROBE_FILE, read_probe
from engine.runs.states import keep_states, place_of_states
from engine.runs.store import RunStore
from engine.types import States, StateSites

SITES = StateSites(steps=(0, 1), timesteps=(1000.0, 937.0), layers=(1, 3), width=4)
WEIGHTS = {"transformer/a.safetensors": "aa"}
MANIFEST = {"models": {"generator": {"folder": "g", "sha256": {**WEIGHTS, "x.json": "b"}}}}
NUM_SCENES = 30


def make_states(value: float, draw: np.random.Generator, sites: StateSites = SITES) -> States:
    values = draw.normal(size=(2, 2, 3, 4)).astype(np.float32)
    values[1, 0, 2, 0] = value
    return States(sites=sites, values=values)


def scores_of(num: int) -> tuple[Any, Any]:
    """Of three takes a scenario, a hidden number, and scores that follow it."""
    draw = np.random.default_rng(0)
    hidden = draw.normal(size=(num, 3))
    levels, noise = draw.uniform(30, 70, size=(num, 1)), draw.normal(size=hidden.shape)
    return hidden, np.clip(levels + 5 * hidden + noise, 0, 100)


def scored(folder: Path, num: int = NUM_SCENES) -> Path:
    hidden, scores = scores_of(num)
    takes = [[Made(0, float(score), sample=index) for index, score in enumerate(of)] for of in scores]
    run, draw = make_run(folder, takes, manifest=MANIFEST), np.random.default_rng(1)
    with RunStore.open(run, read_only=True) as store:
        for scenario, of in zip(store.scenarios(), hidden, strict=True):
            for index, value in enumerate(of):
                keep_states(run, store.video_path(scenario.id, index), make_states(value, draw))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored(tmp_path_factory.mktemp("runs") / "run")


def test_the_command_fits_a_probe_and_stored_takes_are_chosen_by_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figures = tmp_path / PROBE_FILE, tmp_path / "fit.json"
    arguments = ["--run", str(run), "--permutations", "10"]
    assert main([*arguments, "--out", str(tmp_path), "--report", str(figures)]) == 0
    said = capsys.readouterr().out
    assert "90 takes of 30 scenarios, 30 scenes" in said and "reads step 2 layer 2" in said
    assert "no better than fits to permuted scores" not in said
    found = json.loads(figures.read_text())
    assert found["kind"] == "state_fit" and str(tmp_path) not in figures.read_text()
    assert found["rank_correlation"]["mean"] > 0.7 and found["auc"]["mean"] > 0.85
    assert {"steps": [2], "timesteps": [937.0], "layers": [2]}.items() <= found["by_site"][2].items()
    probe = read_probe(out)
    assert probe.made_with == {"generator": WEIGHTS, "loras": []}
    assert probe.fitted_on == "30 scenes, 90 takes" and probe.found["auc"]["mean"] > 0.85

    settings = selector_settings(run, "cpu", ["states"], probe=out)
    chosen = [entry.chosen for entry in reselect(run, by=("states",), settings=settings)]
    assert np.mean(chosen == scores_of(NUM_SCENES)[0].argmax(axis=1)) > 0.8
    both = reselect(run, by=("states", "critic_score"), settings=settings)
    assert [entry.chosen for entry in both] == chosen, "no critic has spoken"
    with pytest.raises(ConfigError, match=r"states needs a probe: .* has no states\.probe"):
        selector_settings(run, "cpu", ["states"])


def test_what_is_no_better_than_chance_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = Path(shutil.copytree(run, tmp_path / "noise"))
    document, draw = json.loads((run / "scores.json").read_text()), np.random.default_rng(2)
    for entry in document["attempts"]:
        entry["score"] = float(draw.uniform(0, 100))
    (noise / "scores.json").write_text(json.dumps(document))
    assert main(["--run", str(noise), "--out", str(tmp_path / "p"), "--permutations", "10"]) == 0
    assert "no better than fits to permuted scores" in capsys.readouterr().out


def test_a_list_of_takes_does_as_well(run: Path, tmp_path: Path) -> None:
    takes = []
    with RunStore.open(run, read_only=True) as store:
        for entry in json.loads((run / "scores.json").read_text())["attempts"]:
            video = store.video_path(entry["scenario_id"], entry["attempt"])
            names = {"scenario": entry["scenario_id"], "scene": entry["scene"]}
            takes.append({"states": str(place_of_states(run, video)), "score": entry["score"], **names})
    listed = tmp_path / "takes.json"
    listed.write_text(json.dumps({"generator": "demo", "takes": takes}))
    arguments = ["--takes", str(listed), "--out", str(tmp_path / "probe"), "--permutations", "1"]
    assert main(arguments) == 0
    probe = read_probe(tmp_path / "probe")
    assert probe.sites.steps == (1,) and any("transformer" in name for name in probe.made_with["generator"])


def test_what_cannot_be_fitted_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments, "--out", str(tmp_path / "probe")]) == 2
        return capsys.readouterr().err

    few = scored(tmp_path / "few", num=4)
    assert "4 scenes have two scored takes with states or more; 30 are needed" in said("--run", str(few))
    bare = make_run(tmp_path / "bare", [[Made(0, 1.0), Made(0, 2.0)]], manifest=MANIFEST)
    assert "no scored take of" in said("--run", str(bare))
    silent = make_run(tmp_path / "silent", [[Made(0, 1.0)]])
    assert "does not say which weights made its takes" in said("--run", str(silent))
    models = {"generator": {"folder": "g", "sha256": {"a.safetensors": "cc"}}}
    other = make_run(tmp_path / "other", [[Made(0, 1.0)]], manifest={"models": models})
    assert "was made by other weights" in said("--run", str(run), "--run", str(other))
    (tmp_path / "list.json").write_text('{"takes": [{"score": 1}]}')
    assert "is no list of takes" in said("--takes", str(tmp_path / "list.json"))
    late = Path(shutil.copytree(run, tmp_path / "late"))
    with RunStore.open(late, read_only=True) as store:
        video = store.video_path(store.scenarios()[0].id, 1)
    later = StateSites(steps=(0, 2), timesteps=(1000.0, 900.0), layers=(1, 3), width=4)
    keep_states(late, video, make_states(0.0, np.random.default_rng(1), later))
    assert "give takes of the same steps and layers" in said("--run", str(late))
    assert not (tmp_path / "probe").exists()


def test_a_run_without_states_says_so(tmp_path: Path, run: Path) -> None:
    assert main(["--run", str(run), "--out", str(tmp_path / "probe"), "--permutations", "1"]) == 0
    bare = make_run(tmp_path / "bare", [[Made(0, 1.0, shade=40), Made(0, 2.0, shade=90)]], manifest=MANIFEST)
    settings = selector_settings(bare, "cpu", ["states"], probe=tmp_path / "probe")
    with pytest.raises(StoreError, match="no take of 0001_perspective-center has hidden states"):
        reselect(bare, by=("states",), settings=settings)
