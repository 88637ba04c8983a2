"""Datasets of simulated scenes on disk: layout, resuming, refusals, and the boundary around truth records."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sliding import SlidingSquare

import engine
from engine.datasets.physics_iq import open_dataset
from engine.demo.layout import write_dataset
from engine.demo.scenes import WIDE, all_kinds, choose_kinds, make_scene
from engine.errors import DatasetError
from engine.types import PhysicsPlan
from engine.video.files import probe, read_frames
from engine.video.motion_masks import masks_of

VIEWS = ("perspective-left", "perspective-right")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    write_dataset(out, [SlidingSquare(0), SlidingSquare(1)], views=VIEWS)
    return out


def test_names_and_folders_are_those_of_the_benchmark(dataset: Path) -> None:
    tree = dataset / "physics-IQ-benchmark"
    second = "0005_{}_8FPS_perspective-left_take-2_trimmed-sliding-square-0.mp4"
    for folder, kind in (
        ("full-videos/take-2/8FPS", "full-videos"),
        ("split-videos/conditioning/8FPS", "conditioning-videos"),
        ("split-videos/testing/8FPS", "testing-videos"),
        ("video-masks/real/8FPS", "video-masks"),
    ):
        assert (tree / folder / second.format(kind)).is_file()
    stills = sorted(path.name for path in (tree / "switch-frames").iterdir())
    assert len(stills) == 8
    assert stills[0] == "0001_switch-frames_anyFPS_perspective-left_trimmed-sliding-square-0.jpg"


def test_ids_count_views_then_scenes_then_takes(dataset: Path) -> None:
    with (dataset / "physics-IQ-benchmark" / "descriptions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["scenario"] for row in rows][::3] == [
        "0001_perspective-left_take-1_trimmed-sliding-square-0.mp4",
        "0004_perspective-right_take-1_trimmed-sliding-square-1.mp4",
        "0007_perspective-left_take-2_trimmed-sliding-square-1.mp4",
    ]
    assert rows[1]["generated_video_name"] == "0002_perspective-right_trimmed-sliding-square-0.mp4"


def test_clips_are_prefix_and_answer_of_the_render(dataset: Path) -> None:
    videos = dataset / "physics-IQ-benchmark" / "split-videos"
    frames = SlidingSquare(0).render(1, "left")
    for folder, part in (("conditioning", frames[:24]), ("testing", frames[24:])):
        path = next((videos / folder / "8FPS").glob("0001_*"))
        read = read_frames(path)
        assert read.shape == part.shape
        assert np.abs(read.astype(int) - part).mean() < 3.0
    mask = next((dataset / "physics-IQ-benchmark" / "video-masks" / "real" / "8FPS").glob("0001_*"))
    clip = next((videos / "testing" / "8FPS").glob("0001_*"))
    stored = read_frames(mask)[..., 0] > 127
    assert probe(mask).num_frames == 40
    assert np.array_equal(stored, masks_of(read_frames(clip, like_opencv=True)) > 127)


def test_the_dataset_opens_and_checks(dataset: Path) -> None:
    opened = open_dataset(dataset)
    scenarios = opened.scenarios(8.0)
    assert len(scenarios) == 4
    for scenario in scenarios:
        opened.check(scenario)


def test_truth_reads_back_as_a_plan(dataset: Path) -> None:
    record = json.loads((dataset / "truth" / "0003_perspective-left.json").read_text())
    assert PhysicsPlan.from_dict(record["truth"]) == SlidingSquare(1).truth
    assert record["scene"] == "sliding-square-1"


def test_truth_and_references_are_named_nowhere_in_the_loop() -> None:
    package = Path(engine.__file__).parent
    loop = [
        path
        for path in package.rglob("*.py")
        if "demo" not in path.relative_to(package).parts and path.relative_to(package).parts[0] != "commands"
    ]
    assert len(loop) > 10
    imported = "import sys, engine.build.run; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", imported], check=True, capture_output=True, text=True)
    assert not [name for name in modules.stdout.split() if name.split(".")[0] == "bench"]
    for path in loop:
        text = path.read_text()
        for word in ('"truth"', "truth/", "testing-videos", "video-masks", '"testing"'):
            assert word not in text, f"{path.name} names {word}"


def test_a_killed_call_is_resumed_without_repeating(tmp_path: Path) -> None:
    scenes = [SlidingSquare(0)]
    write_dataset(tmp_path, scenes, views=VIEWS[:1])
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 2 * 5 + 2
    kept = next(path for path in files if "conditioning" in path.name)
    lost = next(path for path in files if "video-masks_" in path.name)
    before = kept.stat().st_mtime_ns
    lost.unlink()
    counts: list[tuple[int, int]] = []
    write_dataset(
        tmp_path, scenes, views=VIEWS[:1], progress=lambda done, total: counts.append((done, total))
    )
    assert counts == [(2, 2)]
    assert lost.is_file() and kept.stat().st_mtime_ns == before


def test_other_scenes_in_the_folder_are_an_error(tmp_path: Path) -> None:
    write_dataset(tmp_path, [SlidingSquare(0)], views=VIEWS[:1])
    with pytest.raises(DatasetError, match="belongs to other scenes"):
        write_dataset(tmp_path, [SlidingSquare(1)], views=VIEWS[:1])


def test_unknown_views_and_equal_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="are not views"):
        write_dataset(tmp_path, [SlidingSquare(0)], views=("left",))
    with pytest.raises(DatasetError, match="several scenes are named sliding-square-0"):
        write_dataset(tmp_path, [SlidingSquare(0), SlidingSquare(0, speed_px=1.0)])
    with pytest.raises(DatasetError, match="there are no scenes"):
        write_dataset(tmp_path, [])


def test_labels_stand_in_the_truth_record_of_a_scene_that_has_some(tmp_path: Path) -> None:
    (wide,) = choose_kinds(["two-shadows"], WIDE)
    scene = make_scene(2, [wide])
    write_dataset(tmp_path, [scene], views=("perspective-center",))
    record = json.loads((tmp_path / "truth" / "0001_perspective-center.json").read_text())
    assert scene.labels is not None
    assert record["labels"] == {"simple": scene.labels.simple, "failures": list(scene.labels.failures)}
    assert PhysicsPlan.from_dict(record["truth"]) == scene.truth


def test_simulated_scenes_are_written_by_worker_processes(tmp_path: Path) -> None:
    kinds = all_kinds()
    write_dataset(tmp_path, [make_scene(1_000_000, kinds)], views=("perspective-center",), workers=2)
    clips = [path for path in tmp_path.rglob("*.mp4") if "testing" in path.name]
    assert len(clips) == 2 and all(probe(path).num_frames == 40 for path in clips)
