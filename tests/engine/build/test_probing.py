"""Runs that keep hidden states and choose by them: the same takes, stored, resumed and chosen from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import Folders, Silent, make_folders, script_the_critic
from typer.testing import CliRunner

from engine import cli
from engine.build import prepare as preparing
from engine.build.probing import made_with_of, probing, selector_settings
from engine.build.run import build_run, resume_run
from engine.errors import ConfigError, StoreError
from engine.generators import wan
from engine.loop.selection import reselect
from engine.loop.state_probe import StateProbe, read_probe, write_probe
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.states import read_states
from engine.runs.store import RunStore
from engine.settings.config import read_config
from kernels.files import file_digest

KEEP: dict[str, object] = {
    "limit": 1,
    "loop.loops": 0,
    "loop.samples": 2,
    "loop.selectors": ["static_camera"],
    "generator.steps": 2,
    "selectors.keep_states": True,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    script_the_critic(monkeypatch)


def make(folders: Folders, out: Path, **settings: object) -> Path:
    with build_run(folders.config(out, settings=KEEP | settings)) as run:
        run.execute(Silent())
    return out


@pytest.fixture(scope="module")
def kept(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETAKE_THREADS", "1")
        script_the_critic(patch)
        return make(folders, tmp_path_factory.mktemp("runs") / "kept")


@pytest.fixture(scope="module")
def probe(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose points are one number of the states, so that the right choice is known."""
    states = read_states(sorted(kept.glob("videos/*/*.states.safetensors"))[0])
    weights = np.zeros_like(states.values)
    weights[1, 0, 1, 3] = 1.0
    path = tmp_path_factory.mktemp("probe") / "states.probe"
    write_probe(
        path,
        StateProbe(
            sites=states.sites,
            weights=weights,
            offset=0.0,
            made_with=made_with_of(read_config(kept), read_manifest(kept / MANIFEST)),
            fitted_on="nothing",
        ),
    )
    return path


def states_of(run: Path) -> dict[str, float]:
    """What the probe reads of each take, by its place in the run."""
    return {
        str(path.relative_to(run)): float(read_states(path).values[1, 0, 1, 3])
        for path in sorted(run.glob("videos/*/*.states.safetensors"))
    }


def test_every_take_has_its_states_and_is_the_same_as_without(
    folders: Folders, kept: Path, tmp_path: Path
) -> None:
    without = make(folders, tmp_path / "without", **{"selectors.keep_states": False})
    assert len(states_of(kept)) == 2 and states_of(without) == {}
    videos = [sorted(run.glob("videos/*/*.mp4")) for run in (kept, without)]
    assert [file_digest(video) for video in videos[0]] == [file_digest(video) for video in videos[1]]
    assert len(set(states_of(kept).values())) == 2
    sites = read_states(next(iter(kept.glob("videos/*/*.states.safetensors")))).sites
    assert sites.steps == (0, 1) and sites.layers == (0, 1) and sites.width == 24


def test_a_run_chooses_by_its_states_and_says_by_what(
    folders: Folders, kept: Path, probe: Path, tmp_path: Path
) -> None:
    settings = {
        "loop.selectors": ["states"],
        "selectors.states_probe": str(probe),
        "selectors.keep_states": False,
    }
    run = make(folders, tmp_path / "run", **settings)
    values = states_of(run)
    assert values == states_of(kept), "who names states keeps them"
    assert read_manifest(run / MANIFEST)["probes"] == {"states": file_digest(probe)}
    settings_of = selector_settings(run, "cpu", ["states"])
    for entry in reselect(run, by=("states",), settings=settings_of):
        own = [
            values[f"videos/{entry.scenario_id}/attempt-{index}.mp4.states.safetensors"] for index in (0, 1)
        ]
        assert [scores["states"] for scores in entry.scores] == pytest.approx(own)
        assert entry.before == entry.chosen == int(np.argmax(own))


def test_stored_takes_are_chosen_from_later_with_others_and_alone(kept: Path, probe: Path) -> None:
    settings = selector_settings(kept, "cpu", ["states", "static_camera"], probe=probe)
    alone = reselect(kept, by=("states",), settings=settings)
    both = reselect(kept, by=("states", "static_camera"), settings=settings)
    assert [set(scores) for scores in both[0].scores] == [{"states", "static_camera"}] * 2
    assert [scores["states"] for entry in both for scores in entry.scores] == [
        scores["states"] for entry in alone for scores in entry.scores
    ]


def test_the_command_chooses_by_a_probe_that_is_given(
    kept: Path, probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "chosen.json")
    arguments = ["select", str(kept), "--by", "states", "--json", file]
    made = CliRunner().invoke(
        cli.app, [*arguments, "--states-probe", str(probe), "--out", str(tmp_path / "out")]
    )
    assert made.exit_code == 0, made.output
    (entry,) = json.loads(Path(file).read_text())["scenarios"]
    assert entry["chosen"] == int(np.argmax([scores["states"] for scores in entry["scores"]]))
    assert len(list((tmp_path / "out").iterdir())) == 1
    bare = CliRunner().invoke(cli.app, arguments)
    assert bare.exit_code != 0


def test_a_run_that_was_interrupted_goes_on_by_the_states_of_its_takes(
    folders: Folders, kept: Path, probe: Path, tmp_path: Path
) -> None:
    given = Path(shutil.copy(probe, tmp_path / "given.probe"))
    settings: dict[str, Any] = {"loop.selectors": ["states"], "selectors.states_probe": str(given)}
    config = folders.config(tmp_path / "run", settings=KEEP | settings)
    with build_run(config) as run, pytest.raises(KeyboardInterrupt):
        run.execute(Silent(interrupt=1))
    assert states_of(tmp_path / "run")
    was = given.read_bytes()
    write_probe(given, replace(read_probe(given), offset=1.0))
    with pytest.raises(StoreError, match="probe states"):
        resume_run(tmp_path / "run")
    given.write_bytes(was)
    with resume_run(tmp_path / "run") as run:
        outcomes = run.execute(Silent())
    values = states_of(tmp_path / "run")
    assert values == states_of(kept)
    for outcome in outcomes.values():
        own = [values[f"videos/{outcome.scenario_id}/attempt-{i}.mp4.states.safetensors"] for i in (0, 1)]
        assert outcome.chosen == int(np.argmax(own))
        assert [a.selector_scores["states"] for a in outcome.attempts] == pytest.approx(own)


def test_what_does_not_fit_is_refused_before_weights_are_read(
    folders: Folders, kept: Path, probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "load", None)

    def refused(out: str, **settings: object) -> str:
        with pytest.raises(ConfigError) as told:
            build_run(
                folders.config(tmp_path / out, settings=KEEP | {"loop.selectors": ["states"]} | settings)
            )
        assert not (tmp_path / out).exists()
        return str(told.value)

    given = {"selectors.states_probe": str(probe)}
    assert "has no states.probe" in refused("none")
    assert "states_probe" in refused("gone", **{"selectors.states_probe": str(tmp_path / "gone")})
    assert "step 2 at timestep" in refused("steps", **given, **{"generator.steps": 3})
    assert "an exported denoiser keeps no hidden states" in refused(
        "form", **given, **{"denoise.engine": "onnx"}
    )
    strange = tmp_path / "strange.probe"
    write_probe(strange, replace(read_probe(probe), made_with={"generator": {}, "loras": []}))
    assert "fitted on takes of other weights" in refused("w", **{"selectors.states_probe": str(strange)})
    with pytest.raises(ConfigError, match="fitted on takes of other weights"):
        selector_settings(kept, "cpu", ["states"], probe=strange)


def test_a_family_without_states_is_refused_by_name(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(wan, "STATES")
    with pytest.raises(ConfigError, match="the family wan keeps no hidden states"):
        build_run(folders.config(tmp_path / "run", settings=KEEP))


def test_without_states_nothing_is_asked_of_a_run(folders: Folders, tmp_path: Path) -> None:
    config = folders.config(tmp_path / "run")
    assert probing(config, folders.generator, file_digest) is None
    assert selector_settings(tmp_path, "cpu", ["static_camera"]).states_probe is None


def test_scouts_are_chosen_by_states_of_their_own(folders: Folders, probe: Path, tmp_path: Path) -> None:
    """A whole scout of two steps has those of a take of two steps, on which the probe was fitted."""
    settings: dict[str, object] = {
        **{"loop.samples": 1, "loop.selectors": ["critic_score"], "generator.steps": 3},
        **{"loop.method": "scout", "loop.scouts": 3, "loop.scout_halvings": 0, "loop.scout_steps": 2},
        **{"loop.scout_choosers": ["states"], "selectors.states_probe": str(probe)},
        "selectors.keep_states": False,
    }
    run = make(folders, tmp_path / "run", **settings)
    with RunStore.open(run, read_only=True) as store:
        (one,) = store.scenarios()
        scouts, (take,) = store.scouts.of(one.id), store.attempts(one.id)
    values = states_of(run)
    own = [values[f"{scout.video_path}.states.safetensors"] for scout in scouts]
    assert [scout.scores["states"] for scout in scouts] == pytest.approx(own) and len(set(own)) == 3
    assert scouts[int(np.argmax(own))].prompt == take.prompt
    with pytest.raises(ConfigError, match=r"step 2 at timestep .* which is not kept"):
        make(folders, tmp_path / "other", **settings | {"loop.scout_steps": 1})
