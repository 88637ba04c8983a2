"""Both datasets on real files: what they yield, and every way a folder can be wrong."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.datasets import folder, physics_iq
from engine.errors import DatasetError, VideoError
from engine.types import Scenario
from engine.video.files import write_mp4

ROWS = [
    ("0001", "perspective-left", "take-1", "ball"),
    ("0002", "perspective-right", "take-1", "ball"),
    ("0003", "perspective-left", "take-2", "ball"),
    ("0004", "perspective-right", "take-2", "ball"),
]


def write_clip(path: Path, num_frames: int = 24, fps: float = 8.0) -> None:
    write_mp4(path, np.full((num_frames, 16, 16, 3), 80, np.uint8), fps)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree = tmp_path / "physics-IQ-benchmark"
    for number, view, take, scene in ROWS:
        name = f"{number}_conditioning-videos_8FPS_{view}_{take}_trimmed-{scene}.mp4"
        write_clip(tree / "split-videos" / "conditioning" / "8FPS" / name)
    with (tmp_path / "descriptions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(physics_iq.COLUMNS)
        for number, view, take, scene in ROWS:
            names = (f"{number}_{view}_{take}_trimmed-{scene}.mp4", f"{number}_{view}_trimmed-{scene}.mp4")
            writer.writerow((names[0], f"A {scene} rolls, {take}.", "Solid Mechanics", names[1]))
    return tmp_path


def conditioning(root: Path) -> Path:
    return root / "physics-IQ-benchmark" / "split-videos" / "conditioning" / "8FPS"


def test_take_1_rows_become_scenarios(root: Path) -> None:
    scenarios = physics_iq.open_dataset(root).scenarios(8.0)
    assert [scenario.id for scenario in scenarios] == ["0001_perspective-left", "0002_perspective-right"]
    first = scenarios[0]
    assert first.output_name == "0001_perspective-left_trimmed-ball.mp4"
    assert (first.text, first.category) == ("A ball rolls, take-1.", "Solid Mechanics")
    assert (first.prefix.num_frames, first.prefix.fps) == (24, 8.0)


@pytest.mark.parametrize("tree", ["", "physics-IQ-benchmark", "physics-IQ-benchmark-verified"])
def test_root_may_be_the_tree_or_hold_it(root: Path, tree: str) -> None:
    if tree == "physics-IQ-benchmark-verified":
        (root / "physics-IQ-benchmark").rename(root / tree)
    assert len(physics_iq.open_dataset(root / tree).scenarios(8.0)) == 2


def test_no_field_of_a_scenario_leads_to_a_reference(root: Path) -> None:
    for scenario in physics_iq.open_dataset(root).scenarios(8.0):
        assert "testing" not in repr(scenario) and "take-2" not in repr(scenario)
    source = Path(physics_iq.__file__).read_text()
    assert "testing" not in source and "video-masks" not in source


def test_missing_frame_rate_lists_those_that_exist(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"16FPS does not exist.*found.*: 8FPS"):
        physics_iq.open_dataset(root).scenarios(16.0)


def test_one_bad_clip_costs_one_scenario(root: Path) -> None:
    clips = sorted(conditioning(root).iterdir())
    clips[0].write_bytes(clips[0].read_bytes()[:500])
    dataset = physics_iq.open_dataset(root)
    bad, good = dataset.scenarios(8.0)
    dataset.check(good)
    with pytest.raises(VideoError, match="0001_conditioning"):
        dataset.check(bad)


@pytest.mark.parametrize(("num_frames", "fps"), [(22, 8.0), (26, 8.0), (72, 24.0)])
def test_wrong_length_or_rate_is_refused(root: Path, num_frames: int, fps: float) -> None:
    write_clip(sorted(conditioning(root).iterdir())[0], num_frames, fps)
    dataset = physics_iq.open_dataset(root)
    with pytest.raises(VideoError, match="needed"):
        dataset.check(dataset.scenarios(8.0)[0])


def test_one_frame_more_or_less_is_allowed(root: Path) -> None:
    write_clip(sorted(conditioning(root).iterdir())[0], 23)
    dataset = physics_iq.open_dataset(root)
    dataset.check(dataset.scenarios(8.0)[0])


def test_missing_clips_are_listed_with_their_number(root: Path) -> None:
    for path in conditioning(root).iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"all 2 conditioning clips.*0001_conditioning.*0002_conditioning"):
        physics_iq.open_dataset(root).scenarios(8.0)


def test_absent_empty_and_foreign_folders(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "none", "not a folder"), (tmp_path / "empty", "is empty")):
        with pytest.raises(DatasetError, match=words):
            physics_iq.open_dataset(path)
    shutil.rmtree(root / "physics-IQ-benchmark")
    with pytest.raises(DatasetError, match="neither split-videos"):
        physics_iq.open_dataset(root)
    (root / "ball.MP4").touch()
    with pytest.raises(DatasetError, match="own clips, not the benchmark") as refused:
        physics_iq.open_dataset(root)
    assert "the critic's scores in the report" in refused.value.fix


def test_descriptions_are_checked(root: Path) -> None:
    path = root / "descriptions.csv"
    text = path.read_text()
    path.write_text(text.replace("category", "kind", 1))
    with pytest.raises(DatasetError, match="no column category; it has: scenario, description, kind"):
        physics_iq.open_dataset(root)
    path.write_text(text.replace("0001_perspective-left_take-1", "0001-perspective-left-take-1"))
    with pytest.raises(DatasetError, match="line 2: scenario '0001-persp"):
        physics_iq.open_dataset(root)
    for name in ("../../elsewhere.mp4", "/etc/passwd", "..", "take-1/../a.mp4"):
        path.write_text(text.replace("0001_perspective-left_trimmed-ball.mp4", name))
        with pytest.raises(DatasetError, match=r"line 2: .* cannot be the name"):
            physics_iq.open_dataset(root)
    path.write_text(text.replace("take-1", "take-2"))
    with pytest.raises(DatasetError, match="none of take-1"):
        physics_iq.open_dataset(root)
    path.unlink()
    with pytest.raises(DatasetError, match=r"no descriptions\.csv"):
        physics_iq.open_dataset(root)


def own_clips(tmp_path: Path, *names: str) -> Path:
    root = tmp_path / "clips"
    for name in names:
        write_clip(root / name)
    return root


def scenario_named(dataset: folder.ClipFolder, name: str) -> Scenario:
    return next(scenario for scenario in dataset.scenarios(8.0) if scenario.id == name)


def test_own_clips_take_text_from_sidecar_or_table(tmp_path: Path) -> None:
    root = own_clips(tmp_path, "b.mp4", "a.mp4")
    (root / "a.txt").write_text("A ball\nrolls.\n")
    (root / "prompts.csv").write_text('file,text\nb.mp4,"A block, falling."\n')
    dataset = folder.open_dataset(root)
    assert [scenario.id for scenario in dataset.scenarios(8.0)] == ["a", "b"]
    assert scenario_named(dataset, "a").text == "A ball rolls."
    assert scenario_named(dataset, "b").text == "A block, falling."
    dataset.check(scenario_named(dataset, "a"))


def test_own_clips_may_be_longer_but_not_shorter(tmp_path: Path) -> None:
    root = own_clips(tmp_path, "long.mp4", "short.mp4")
    write_clip(root / "long.mp4", 60)
    write_clip(root / "short.mp4", 20)
    for name in ("long", "short"):
        (root / f"{name}.txt").write_text("Something moves.")
    dataset = folder.open_dataset(root)
    dataset.check(scenario_named(dataset, "long"))
    with pytest.raises(VideoError, match=r"short\.mp4 is 2\.50 s long.*at least 3 s"):
        dataset.check(scenario_named(dataset, "short"))


def test_own_clips_without_text_columns_or_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a folder"):
        folder.open_dataset(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no clip"):
        folder.open_dataset(tmp_path / "empty")
    root = own_clips(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(DatasetError, match=r"2 of 2 clips .* have no text: a\.mp4, b\.mp4"):
        folder.open_dataset(root)
    (root / "prompts.csv").write_text("clip,text\na.mp4,x\n")
    with pytest.raises(DatasetError, match="no column file; it has: clip, text"):
        folder.open_dataset(root)
    (root / "prompts.csv").write_text("file,text\na.mp4,x\nc.mp4,y\n")
    with pytest.raises(DatasetError, match=r"1 file that is not there: c\.mp4"):
        folder.open_dataset(root)
    shutil.copy(root / "a.mp4", root / "a.mov")
    with pytest.raises(DatasetError, match="several clips named a"):
        folder.open_dataset(root)


def test_a_clip_whose_name_is_no_text_is_refused_before_anything_runs(tmp_path: Path) -> None:
    root = own_clips(tmp_path, "a.mp4")
    (root / "a.mp4").rename(root / "caf\udce9.mp4")  # the byte of é in an older encoding
    with pytest.raises(DatasetError, match=r"is not UTF-8\n.*rename the clip"):
        folder.open_dataset(root)
