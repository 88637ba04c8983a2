"""Scores from Python: of a folder and of a run, by the evaluator's own process; what it refuses is raised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_run import Folders

import engine
import retake


@pytest.fixture(autouse=True)
def for_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(engine.__file__).parents[1]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def perfect(folders: Folders, clips: Path, *, only: int = 2) -> Path:
    """The real continuations as if a model had made them."""
    clips.mkdir()
    tree = folders.dataset / "physics-IQ-benchmark" / "split-videos" / "testing" / "8FPS"
    for path in sorted(tree.glob("*take-1*"))[:only]:
        number, _, _, view, _, name = path.name.split("_")
        shutil.copyfile(path, clips / f"{number}_{view}_{name}")
    return clips


def test_a_folder_of_clips(folders: Folders, tmp_path: Path) -> None:
    clips = perfect(folders, tmp_path / "clips")
    (tmp_path / "bench").mkdir()  # another one than ours, in front of it if anything were
    (tmp_path / "bench" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    scores = retake.score(clips, folders.dataset)
    assert scores.complete and scores.num_cases == 2 and scores.unscored == {}
    assert scores.physics_iq_verified is not None and scores.physics_iq_verified > 99
    assert sorted(scores.cases) == sorted(one.id for one in retake.open_scenarios(folders.dataset, 8.0))
    assert scores.document["fps"] == 8.0


def test_what_cannot_be_scored_is_raised(folders: Folders, tmp_path: Path) -> None:
    clips = perfect(folders, tmp_path / "clips", only=1)
    with pytest.raises(retake.ScorerError) as caught:
        retake.score(clips, folders.dataset)
    assert "1" in caught.value.problem and "--allow-incomplete" in caught.value.fix
    with pytest.raises(retake.ConfigError, match="names no dataset"):
        retake.score(clips)


def test_the_scores_of_a_run_are_of_its_takes(tmp_path: Path) -> None:
    from engine.api.scores import read_scores

    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"physics_iq": None}))
    with pytest.raises(retake.ScorerError, match="not a scores file"):
        read_scores(path)
