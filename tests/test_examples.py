"""The examples of docs/examples do what they say: on tiny models, and, slowly, on the bundled ones."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny_run import Folders, make_folders, script_the_critic

import retake
from engine.build import model_folders
from engine.demo.showcase import write_scenes

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"
TESTED = ("one_take", "own_generator", "own_selector", "read_run", "run_and_score")
SELECTOR_LINES = 15


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def tiny(folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Folders:
    """The models that are called "demo" are tiny ones; the evaluator finds this tree from anywhere."""
    monkeypatch.setattr(model_folders, "MODELS", folders.generator.parent)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    script_the_critic(monkeypatch)
    return folders


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip_of(folders: Folders, place: Path) -> Path:
    """A folder with one prefix of the dataset as a clip of one's own."""
    place.mkdir()
    prefix = retake.open_scenarios(folders.dataset, 8.0)[0].prefix.path
    shutil.copyfile(prefix, place / "ball.mp4")
    (place / "ball.txt").write_text("A ball rolls.")
    return place / "ball.mp4"


def test_every_example_is_tested() -> None:
    """`read_run` beside the schema, tests/engine/runs/test_schema.py."""
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(TESTED)


def test_one_take(tiny: Folders, tmp_path: Path) -> None:
    critiques = load("one_take").main(str(clip_of(tiny, tmp_path / "clips")), "A ball rolls.")
    assert [one.score for one in critiques] == [10.0, 10.0]  # as scripted, for a prompt of a plan
    assert (tmp_path / "take-0.mp4").read_bytes() != (tmp_path / "take-1.mp4").read_bytes()


def test_own_generator(tiny: Folders, tmp_path: Path) -> None:
    clips = clip_of(tiny, tmp_path / "clips").parent
    outcomes = load("own_generator").main(str(clips), "run")
    assert [(one.failure, len(one.attempts)) for one in outcomes.values()] == [(None, 2)]
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_run_score_and_select(tiny: Folders, tmp_path: Path) -> None:
    scores = load("run_and_score").main(str(tiny.dataset), "run")
    assert scores.complete and scores.num_cases == 2
    assert retake.read_run("run").scores == scores
    chosen = load("own_selector").main("run")
    assert set(chosen) == set(scores.cases) and set(chosen.values()) <= {0, 1}


def test_a_selector_takes_fifteen_lines() -> None:
    text = (EXAMPLES / "own_selector.py").read_text(encoding="utf-8")
    assert len(text.partition("class ")[2].partition("\n\n\n")[0].splitlines()) <= SELECTOR_LINES


@pytest.mark.slow
def test_on_the_bundled_models(tmp_path: Path) -> None:
    """Each as its first lines say, in a process of its own, with a step of denoising."""
    write_scenes(tmp_path / "scenes", seeds=[0], size_px=128, views=("center",), kinds=())
    prefixes = sorted((tmp_path / "scenes").rglob("split-videos/conditioning/8FPS/*.mp4"))
    (tmp_path / "clips").mkdir()
    clip = shutil.copyfile(prefixes[0], tmp_path / "clips" / "stick.mp4")
    (tmp_path / "clips" / "stick.txt").write_text("A stick turns.")
    for name, told, arguments in (
        ("one_take", "take 1:", (clip, "A stick turns.", 1)),
        ("own_generator", "stick take", ("clips", "runs/still")),
        ("run_and_score", "Verified", ("scenes", "runs/whole", 1)),
        ("own_selector", "0001_perspective-center take", ("runs/whole",)),
    ):
        done = subprocess.run(
            [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'engine/api/name'}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert f"{told} " in done.stdout, done.stdout
