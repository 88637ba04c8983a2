"""Two sets of clips compared: known differences, and folders and runs through the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from evaluators import in_this_process
from scored_clips import make_dataset, submit
from scored_runs import Made, entry_of
from typer.testing import CliRunner

from bench.table.compare import compare_clips, rich_table
from bench.table.make import make_table
from engine import cli
from engine.errors import ConfigError, ScorerError


def write_scores(path: Path, scores: dict[str, tuple[str, float]], **more: Any) -> Path:
    """A file of `score --json`: category and Verified score by scenario."""
    cases = [
        entry_of(name, 0, Made(0, score, score / 2)) | {"category": category}
        for name, (category, score) in scores.items()
    ]
    path.write_text(json.dumps({"fps": 8.0, "cases": cases, "attempts": [], "unscored": [], **more}))
    return path


A = {"0001": ("Optics", 60.0), "0002": ("Optics", 50.0), "0003": ("Magnetism", 30.0)}
B = {"0001": ("Optics", 40.0), "0002": ("Optics", 50.0), "0003": ("Magnetism", 35.0), "0004": ("Optics", 1.0)}


def test_the_difference_is_paired_and_by_category(tmp_path: Path) -> None:
    document = compare_clips(write_scores(tmp_path / "a.json", A), write_scores(tmp_path / "b.json", B))
    every, optics, magnetism = (document["groups"][name] for name in ("all", "Optics", "Magnetism"))
    verified = every["physics_iq_verified"]
    assert (every["num_cases"], every["num_scenes"]) == (3, 3)
    assert verified["a"] == pytest.approx(140 / 3) and verified["b"] == pytest.approx(125 / 3)
    assert verified["difference"]["mean"] == pytest.approx(5.0)
    low, high = verified["difference"]["ci95"]
    assert low == pytest.approx(-5.0) and high == pytest.approx(20.0)  # all resamples of one scene each
    assert optics["physics_iq_verified"]["difference"]["mean"] == pytest.approx(10.0)
    assert optics["physics_iq"]["difference"]["mean"] == pytest.approx(5.0)
    assert magnetism["physics_iq_verified"]["difference"] == {"mean": pytest.approx(-5.0), "ci95": None}
    assert document["left_out"] == {"0004": f"{tmp_path / 'a.json'} has no scenario 0004"}
    assert rich_table(document).row_count == 3


def test_what_is_no_set_of_clips_is_refused(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "a.json", A)
    (tmp_path / "clips").mkdir()
    with pytest.raises(ConfigError, match="names no dataset"):
        compare_clips(scores, tmp_path / "clips")
    with pytest.raises(ConfigError, match="is given twice"):
        compare_clips(scores, scores)
    with pytest.raises(ConfigError, match="no scenario is scored in every"):
        compare_clips(scores, write_scores(tmp_path / "c.json", {"0009": ("Optics", 1.0)}))
    for text, fix in (("{}", "retake score FOLDER --json"), ("[", "score again, or name a folder")):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ScorerError, match=rf"b\.json.*\n.*{fix}"):
            compare_clips(scores, tmp_path / "b.json")


def test_a_table_of_folders_has_a_row_each_and_no_ensemble(tmp_path: Path) -> None:
    files = [write_scores(tmp_path / "a.json", A), write_scores(tmp_path / "b.json", B)]
    document = make_table(files, compare="1 vs 2")
    assert [(row["run"], row["loop"], row["seeds"]) for row in document["rows"]] == [
        ("1", None, []),
        ("2", None, []),
    ]
    assert document["comparisons"][0]["physics_iq_verified"]["mean"] == pytest.approx(5.0)
    assert not any("oracle" in note for note in document["notes"])
    with pytest.raises(ConfigError, match="--select chooses among takes of a run"):
        make_table(files, choosers=["consensus"])


def test_two_models_clips_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that nobody scored before; the second command finds what the first has kept."""
    in_this_process(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = make_dataset(tmp_path / "dataset")
    submit(dataset, tmp_path / "real")
    shutil.copytree(tmp_path / "real", tmp_path / "mixed")
    for path in submit(dataset, tmp_path / "other", take=2).values():
        if "right" in path.name:
            shutil.copyfile(path, tmp_path / "mixed" / path.name)
    sides = [tmp_path / "real", tmp_path / "mixed"]

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(cli.app, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        return result.output

    said = call("compare", *sides, "--dataset", dataset, "--json", tmp_path / "compared.json")
    assert f"A: {sides[0]}" in said and "Optics" in said and "A minus B" in said
    every = json.loads((tmp_path / "compared.json").read_text())["groups"]["all"]
    found = every["physics_iq_verified"]
    assert found["a"] == pytest.approx(100.0) and found["b"] < 100.0
    assert found["difference"]["mean"] == pytest.approx(found["a"] - found["b"])
    low, high = found["difference"]["ci95"]
    assert 0 < low <= found["difference"]["mean"] <= high
    assert sorted(path.suffix for path in sides[0].iterdir()) == [".mp4"] * 4  # nothing was written there
    written = [line.removeprefix("wrote ") for line in said.splitlines() if line.startswith("wrote ")]
    assert not [path for path in written if not Path(path).is_file()]
    said = call("table", *sides, "--dataset", dataset, "--compare", "1 vs 2")
    assert "1 minus 2: " in said and "Row 2: mixed (the clips as they are)" in said


def test_scoring_that_is_stopped_is_no_fault_of_the_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    dataset = make_dataset(tmp_path / "dataset")
    submit(dataset, tmp_path / "real")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("bench.scoring.physics_iq.score_submission", stop)
    with pytest.raises(KeyboardInterrupt):
        compare_clips(tmp_path / "real", write_scores(tmp_path / "a.json", A), dataset)


@pytest.mark.parametrize("quiet", [False, True])
def test_json_to_stdout_is_the_document_alone(tmp_path: Path, quiet: bool) -> None:
    """By the command as users call it, whose evaluator is a process of its own."""
    sides = [str(write_scores(tmp_path / f"{name}.json", scores)) for name, scores in (("a", A), ("b", B))]
    words = [sys.executable, "-m", "engine.cli", *(["-q"] if quiet else []), "compare", *sides, "--json", "-"]
    ended = subprocess.run(words, check=True, capture_output=True, text=True)
    assert json.loads(ended.stdout)["num_scenes"] == 3
    assert ("Magnetism" in ended.stderr) is not quiet and "wrote" not in ended.stderr
