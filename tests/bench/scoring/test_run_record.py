"""Scoring a run names what is not as the run was made with: texts, prefixes, clips; or notes it when told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from scored_clips import make_dataset, record_takes, submit

from bench.scoring.physics_iq import main
from bench.scoring.run_record import seen_scenes
from engine.build.opened_dataset import open_dataset
from engine.demo.scenes.seeds import HELD_OUT, TUNING
from engine.runs.manifest import write_manifest
from engine.runs.store import RunStore
from kernels.files import file_digest


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data")


@pytest.fixture
def run(dataset: Path, tmp_path: Path) -> Path:
    """One finished scenario, with the digest of its prefix."""
    (scenario,) = open_dataset(dataset).scenarios(8.0)[:1]
    with RunStore.create(tmp_path / "run", [scenario]) as store:
        record_takes(store, scenario, submit(dataset, tmp_path / "clips")[scenario.id])
    prefixes = {scenario.id: file_digest(scenario.prefix.path)}
    write_manifest(tmp_path / "run" / "manifest.json", {"prefixes": prefixes})
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("generator", "critic", "notes"),
    [("demo", "other", 2), ("other", "demo", 2), ("other", "other", 0)],
)
def test_scores_say_that_models_were_trained_on_the_scenes(
    run: Path, generator: str, critic: str, notes: int
) -> None:
    config = {"generator": {"name": generator}, "critic": {"name": critic}}
    write_manifest(run / "manifest.json", {"config": config})
    scenes = [f"trimmed-two-cups-{seed}" for seed in (7, 8, TUNING.first, HELD_OUT.first)]
    told = seen_scenes(run, [*scenes, "trimmed-ball-and-block"])
    assert len(told) == notes
    if notes:
        assert told[0].startswith("2 of 5 scenes are training scenes of the bundled models")
        assert told[1].startswith("1 of 5 scenes are tuning scenes") and "--seed 1200000" in told[1]
    assert seen_scenes(run / "chosen", scenes) == [], "of a folder of clips nobody knows whose they are"


def change(what: str, dataset: Path, run: Path) -> str:
    (scenario,) = open_dataset(dataset).scenarios(8.0)[:1]
    if what == "text":
        table = next(dataset.rglob("descriptions.csv"))
        table.write_text(table.read_text().replace(scenario.text, "Another sentence."))
        return f"text of scenario {scenario.id}"
    if what == "prefix":
        with scenario.prefix.path.open("ab") as file:
            file.write(b"other")
        return f"prefix of scenario {scenario.id}"
    clip = run / "chosen" / scenario.output_name
    shutil.copyfile(submit(dataset, run.parent / "others", take=2)[scenario.id], clip)
    return f"file chosen/{clip.name}"


@pytest.mark.parametrize("what", ["text", "prefix", "clip"])
def test_what_changed_is_refused_or_noted(
    dataset: Path, run: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    arguments = [str(run), "--dataset", str(dataset), "--no-cache", "--all-attempts", "--jobs", "1"]
    assert main(arguments) == 0
    assert json.loads((run / "scores.json").read_text())["changes"] == []
    says = change(what, dataset, run)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert says in told and "--accept-changes" in told
    assert main([*arguments, "--accept-changes"]) == 0
    assert json.loads((run / "scores.json").read_text())["changes"] == [says]
    assert f"accepted: {says}" in capsys.readouterr().out


def test_what_was_accepted_before_stands_in_the_scores(dataset: Path, run: Path) -> None:
    facts = json.loads((run / "manifest.json").read_text())
    write_manifest(run / "manifest.json", {**facts, "resumed": [{"changes": ["package torch: 1, now 2"]}]})
    assert main([str(run), "--dataset", str(dataset), "--no-cache", "--jobs", "1"]) == 0
    document = json.loads((run / "scores.json").read_text())
    assert document["changes"] == ["resumed: package torch: 1, now 2"]
    assert next(iter(document["takes"].values()))["chosen"] == 0
