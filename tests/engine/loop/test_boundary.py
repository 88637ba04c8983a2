"""The information boundary: every file of a dataset that is opened is known, and no reference can be.

The references of a dataset are replaced by folders of the same name: whoever opens one fails.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_probe import write_tiny_probe
from tiny_run import Folders, Silent, make_folders, script_the_critic
from tiny_vjepa import write_tiny_vjepa

from engine import plugins
from engine.build import probing
from engine.build.run import build_run
from engine.errors import BoundaryError, VideoError
from engine.loop import boundary
from engine.runs.store import RunStore
from engine.types import Attempt, Scenario, Video
from engine.video.files import probe, read_frames, write_mp4

ROOT = Path(__file__).resolve().parents[3]
SELECTORS = plugins.names("engine.selectors")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


def questions(dataset: Path) -> set[Path]:
    prefixes = {path for path in dataset.rglob("*conditioning-videos*.mp4") if "take-1" in path.name}
    return {next(dataset.rglob("descriptions.csv")), *prefixes}


@pytest.fixture
def trapped(whole: Folders, tmp_path: Path) -> Folders:
    """The dataset with a trap in the place of each file that is no question."""
    dataset = tmp_path / "dataset"
    shutil.copytree(whole.dataset, dataset)
    asked = questions(dataset)
    traps = [path for path in dataset.rglob("*") if path.is_file() and path not in asked]
    assert {"split-videos", "video-masks"} <= {part for path in traps for part in path.parts}
    assert any("testing" in path.parts for path in traps) and any("take-2" in path.name for path in traps)
    for path in traps:
        path.unlink()
        path.mkdir()
    return Folders(dataset=dataset, generator=whole.generator, critic=whole.critic)


SETTINGS: dict[str, object] = {"loop.loops": 1, "loop.samples": 2, "loop.selectors": SELECTORS, "limit": 1}


@pytest.fixture(scope="module")
def settings(whole: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Every selector, the networks as small as can be."""
    probe = write_tiny_probe(tmp_path_factory.mktemp("probe") / "states.probe", whole.generator)
    return SETTINGS | {
        "selectors.vjepa": str(write_tiny_vjepa(tmp_path_factory.mktemp("vjepa"))),
        "selectors.states_probe": str(probe),
    }


def test_a_trap_is_a_trap(trapped: Folders) -> None:
    trap = next(path for path in trapped.dataset.rglob("*take-2*") if path.is_dir())
    with pytest.raises(IsADirectoryError):
        trap.open("rb")
    with pytest.raises(VideoError):
        read_frames(trap)
    assert not cv2.VideoCapture(str(trap)).isOpened()


def test_the_loop_with_every_selector_touches_no_reference(
    trapped: Folders, settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    with build_run(trapped.config(tmp_path / "run", settings=settings)) as run:
        (outcome,) = run.execute(Silent()).values()
    assert outcome.failure is None
    assert [(a.round, a.sample) for a in outcome.attempts] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    asked = {path for path in questions(trapped.dataset) if "conditioning" not in path.name}
    with RunStore.open(tmp_path / "run", read_only=True) as store:
        opened = set(store.opened_files())
    assert asked <= opened <= questions(trapped.dataset)


@dataclass(frozen=True)
class Spy:
    """A selector that looks at the answer."""

    reference: Path

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        return [float(read_frames(self.reference).mean())] * len(takes)


def test_a_selector_that_opens_a_reference_fails_its_scenario(
    whole: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    reference = next(path for path in whole.dataset.rglob("*.mp4") if "testing" in path.parts)
    monkeypatch.setattr(probing, "load_selectors", lambda names, settings: {"spy": Spy(reference)})
    config = whole.config(tmp_path / "run", settings=SETTINGS | {"loop.selectors": ["spy"]})
    with build_run(config) as run:
        (outcome,) = run.execute(Silent()).values()
    assert outcome.failure is not None and "BoundaryError" in outcome.failure
    assert reference.name in outcome.failure
    with RunStore.open(tmp_path / "run", read_only=True) as store:
        assert reference not in store.opened_files()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """dataset/{prefix,reference}.mp4, dataset/table.csv, elsewhere.mp4."""
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    for name in ("dataset/prefix.mp4", "dataset/reference.mp4", "elsewhere.mp4"):
        write_mp4(tmp_path / name, frames, 8.0)
    (tmp_path / "dataset" / "table.csv").write_text("a")
    return tmp_path


def test_what_is_opened_is_recorded_once_and_by_its_real_name(tree: Path) -> None:
    dataset = tree / "dataset"
    (tree / "link.mp4").symlink_to(dataset / "reference.mp4")
    with boundary.watch(dataset, own=tree / "run") as watch:
        probe(dataset / "prefix.mp4")
        read_frames(dataset / "prefix.mp4")
        (dataset / "table.csv").read_text()
        read_frames(tree / "elsewhere.mp4")
        thread = threading.Thread(target=lambda: (tree / "link.mp4").read_bytes())
        thread.start()
        thread.join()
    probe(dataset / "reference.mp4")  # after the watch
    names = ("dataset/prefix.mp4", "dataset/table.csv", "elsewhere.mp4", "dataset/reference.mp4")
    assert watch.paths() == tuple(tree / name for name in names)


def test_each_path_is_told_as_new_once(tree: Path) -> None:
    with boundary.watch(tree / "dataset", own=tree / "run") as watch:
        probe(tree / "dataset" / "prefix.mp4")
        assert watch.new_paths() == (tree / "dataset" / "prefix.mp4",)
        probe(tree / "dataset" / "prefix.mp4")
        assert watch.new_paths() == ()
        probe(tree / "elsewhere.mp4")
        assert watch.new_paths() == (tree / "elsewhere.mp4",)
    assert watch.paths() == (tree / "dataset" / "prefix.mp4", tree / "elsewhere.mp4")


def test_only_allowed_videos_of_the_dataset_open(tree: Path) -> None:
    dataset = tree / "dataset"
    (tree / "link.mp4").symlink_to(dataset / "reference.mp4")
    with boundary.watch(dataset, own=tree / "run", allowed=[dataset / "prefix.mp4"]) as watch:
        read_frames(dataset / "prefix.mp4")
        for path in (
            dataset / "reference.mp4",
            dataset / ".." / "dataset" / "reference.mp4",
            tree / "link.mp4",
        ):
            for opener in (probe, Path.read_bytes, lambda path: os.open(path, os.O_RDONLY)):
                with pytest.raises(BoundaryError, match="not the prefix"):
                    opener(path)
    assert watch.paths() == (dataset / "prefix.mp4",)
    assert probe(dataset / "reference.mp4").num_frames == 2


def test_the_runs_own_videos_are_neither_recorded_nor_refused(tree: Path) -> None:
    dataset = tree / "dataset"
    write_mp4(dataset / "runs" / "a" / "take.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8.0)
    with boundary.watch(dataset, own=dataset / "runs" / "a", allowed=[]) as watch:
        probe(dataset / "runs" / "a" / "take.mp4")
    assert watch.paths() == ()
    with (
        boundary.watch(dataset, own=tree, allowed=[]),  # the demo's dataset lies in its run folder
        pytest.raises(BoundaryError),
    ):
        probe(dataset / "reference.mp4")


def native_openings(source: str) -> list[str]:
    """Calls that open a video without Python: no audit hook sees them."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {ast.unparse(function) for function in calls}
    readers = ("av.open", "av.container.open", "cv2.VideoCapture", "VideoCapture", "cv2.imread", "read_video")
    return sorted(name for name in names if name.endswith(readers))


def test_one_module_of_the_engine_opens_videos_natively() -> None:
    found = {
        str(path.relative_to(ROOT)): calls
        for path in sorted((ROOT / "engine").rglob("*.py"))
        if (calls := native_openings(path.read_text(encoding="utf-8")))
    }
    assert found == {"engine/video/containers.py": ["av.open"]}
    assert native_openings("import cv2\ncv2.VideoCapture('a')") == ["cv2.VideoCapture"]


CHILD = """
import json, sys
sys.path[:0] = [{repo!r}, {tests!r}]
from pathlib import Path
from engine.build.run import build_run
from tiny_run import Folders, Silent
folders = Folders(dataset=Path({dataset!r}), generator=Path({generator!r}), critic=Path({critic!r}))
with build_run(folders.config(Path({out!r}), settings=json.loads({settings!r}))) as run:
    (outcome,) = run.execute(Silent()).values()
assert outcome.chosen is not None, outcome.failure
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in ("bench", "engine"))))
"""


@pytest.mark.slow
def test_the_process_of_the_loop_never_imports_the_scorer(
    trapped: Folders, settings: dict[str, object], tmp_path: Path
) -> None:
    code = CHILD.format(
        repo=str(ROOT),
        tests=str(ROOT / "tests" / "support"),
        dataset=str(trapped.dataset),
        generator=str(trapped.generator),
        critic=str(trapped.critic),
        out=str(tmp_path / "run"),
        settings=json.dumps(settings | {"loop.loops": 0}),
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "engine.loop.scheduler" in loaded
    assert [name for name in loaded if name.startswith("bench")] == []
