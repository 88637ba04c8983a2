"""The check of a tree: scenes are whole, and each kind of damage is found where it is and named."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from odd_clips import write_timed
from sliding import SlidingSquare
from submission_tree import write_clip, write_tree
from typer.testing import CliRunner, Result

from bench.dataset import check as dataset_check
from bench.dataset.check import Line, check_dataset, how_to_obtain
from engine import cli
from engine.datasets.physics_iq import COLUMNS, TREES
from engine.demo.layout import write_dataset
from engine.errors import DatasetError
from engine.video.files import read_header

TREE = Path(TREES[0])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, two views, two takes, as `retake scenes` writes them."""
    root = tmp_path_factory.mktemp("scenes")
    write_dataset(
        root, [SlidingSquare(0), SlidingSquare(1)], views=("perspective-left", "perspective-center")
    )
    return root


@pytest.fixture
def root(scenes: Path, tmp_path: Path) -> Path:
    shutil.copytree(scenes, tmp_path / "data")
    return tmp_path / "data"


def bad_lines(root: Path, *, fps: int | None = None, deep: bool = False) -> dict[str, Line]:
    report = check_dataset(root, fps=fps, deep=deep, workers=2)
    return {line.what: line for line in report.lines if line.faults}


def one(root: Path, kind: str, number: int = 1) -> Path:
    return sorted((root / TREE / kind / "8FPS").glob("*.mp4"))[number - 1]


def edit_rows(root: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    path = root / TREE / "descriptions.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *change(rows[1:])])


@pytest.mark.parametrize("deep", [False, True])
def test_scenes_are_whole(scenes: Path, deep: bool) -> None:
    seen: list[str] = []
    report = check_dataset(scenes, deep=deep, progress=seen.append)
    assert report.num_faults == 0 and report.num_cases == 4 and report.kind == "original"
    assert how_to_obtain(report, None) == []
    found = {line.what: line.found for line in report.lines}
    assert found["split-videos/testing 8FPS"] == "8 of 8"
    assert found["split-videos/conditioning 8FPS"] == "4 of 4 and 4 of the other take"
    assert found["switch-frames"] == "4 of 4"
    assert len(seen) == 8 * 3 + 4 * 2 + 4


@pytest.mark.parametrize(
    ("kind", "damage", "fault"),
    [
        ("split-videos/testing", Path.unlink, "missing: 1 (0001)"),
        ("split-videos/conditioning", Path.unlink, "missing: 1 (0001)"),
        ("video-masks/real", Path.unlink, "missing: 1 (0001)"),
        (
            "split-videos/testing",
            lambda p: write_clip(p, 39, size=(64, 64)),
            "39 frames, not 40 (5 s): 1 (0001)",
        ),
        (
            "split-videos/testing",
            lambda p: write_clip(p, 42, size=(64, 64)),
            "42 frames, not 40 (5 s): 1 (0001)",
        ),
        (
            "split-videos/testing",
            lambda p: write_clip(p, 80, 16, (64, 64)),
            "16 fps in the folder of 8: 1 (0001)",
        ),
        ("split-videos/conditioning", lambda p: write_clip(p, 22), "22 frames, not 24 (3 s): 1 (0001)"),
        ("full-videos/take-1", lambda p: write_clip(p, 60), "60 frames, not 64 (8 s): 1 (0001)"),
        ("video-masks/real", lambda p: write_clip(p, 40, size=(32, 32)), "32x32, its clip 64x64: 1 (0001)"),
        ("video-masks/real", lambda p: write_clip(p, 41, size=(64, 64)), "41 frames, its clip 40: 1 (0001)"),
        (
            "split-videos/testing",
            lambda p: p.write_bytes(p.read_bytes()[:-99]),
            "is truncated: it ends before its last part",
        ),
        ("split-videos/testing", lambda p: p.write_bytes(b""), "is not a readable video"),
        ("split-videos/testing", lambda p: p.write_text("no video"), "is not a readable video"),
    ],
)
def test_damage_to_a_clip_is_named(
    root: Path, kind: str, damage: Callable[[Path], object], fault: str
) -> None:
    damage(one(root, kind))
    lines = bad_lines(root)
    assert any(fault in text for text in lines[f"{kind} 8FPS"].faults), lines
    if kind != "split-videos/testing":  # its mask is compared with it
        assert list(lines) == [f"{kind} 8FPS"]


@pytest.mark.parametrize(
    ("num_frames", "kind"), [(41, "split-videos/testing"), (23, "split-videos/conditioning")]
)
def test_one_frame_of_slack_where_readers_allow_it(root: Path, num_frames: int, kind: str) -> None:
    write_clip(one(root, kind), num_frames, size=(64, 64))
    assert f"{kind} 8FPS" not in bad_lines(root)


def test_deep_finds_what_headers_hide(root: Path) -> None:
    shutil.copyfile(one(root, "split-videos/testing", 2), one(root, "video-masks/real", 2))
    path = one(root, "split-videos/testing", 3)
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + bytes(len(data) - start))
    assert bad_lines(root) == {}
    lines = bad_lines(root, deep=True)
    (fault,) = lines["video-masks/real 8FPS"].faults
    assert fault.startswith("no mask: ") and fault.endswith("of its pixels are grey: 1 (0002)")
    assert any("(0003)" in fault for fault in lines["split-videos/testing 8FPS"].faults)


def test_switch_frames_are_counted_and_measured(root: Path) -> None:
    stills = sorted((root / TREE / "switch-frames").glob("*.jpg"))
    stills[0].unlink()
    cv2.imwrite(str(stills[1]), np.zeros((32, 32, 3), np.uint8))
    stills[2].write_bytes(b"no picture")
    faults = bad_lines(root)["switch-frames"].faults
    assert faults[0] == "missing: 1 (0001)" and "32x32, its clip 64x64: 1 (0002)" in faults
    assert any("(0003)" in fault for fault in faults)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: rows[:-1], "4 rows of take 1, 3 of take 2"),
        (lambda rows: rows[:-1], "case without a take 2 of its view and scene: 1 (0004)"),
        (lambda rows: [*rows, rows[0]], "id used twice: 1 (0001)"),
        (
            lambda rows: [[row[0].replace("left", "top"), *row[1:]] for row in rows],
            "no such view: 4 (perspective-top",
        ),
        (lambda rows: [[*row[:2], "Chemistry", row[3]] for row in rows], "no such category: 8 (Chemistry"),
        (lambda rows: [[*rows[0][:3], "0001.mp4"], *rows[1:]], "is not ID_VIEW_SCENE.mp4: 1 (0001.mp4)"),
        (
            lambda rows: [*rows[:4], *([row[0].replace("000", "030"), *row[1:]] for row in rows[4:])],
            "take-2 id less take-1 id is 304 (4 cases); it must be 4 or 198",
        ),
    ],
)
def test_rows_that_contradict_the_numbering_are_named(
    root: Path, change: Callable[[list[list[str]]], list[list[str]]], fault: str
) -> None:
    edit_rows(root, change)
    assert any(fault in text for text in bad_lines(root)["descriptions.csv"].faults), bad_lines(root)


def test_a_subset_of_the_benchmark_keeps_its_ids(tmp_path: Path) -> None:
    """Rows deleted in pairs leave a sound, reduced dataset: the distance of the ids stays 198."""
    write_tree(tmp_path, num_scenes=66, tree=TREES[0])
    assert "descriptions.csv" not in bad_lines(tmp_path)
    edit_rows(tmp_path, lambda rows: [row for row in rows if row[0].endswith("scene-7.mp4")])
    report = check_dataset(tmp_path)
    assert report.num_cases == 3 and report.lines[0].found == "6 rows: 1 scene, 3 cases, 2 takes"
    assert report.lines[0].faults == ()


def test_the_whole_benchmark_needs_its_66_scenes(tmp_path: Path) -> None:
    write_tree(tmp_path, num_scenes=66, tree=TREES[0])
    swap = lambda row: [cell.replace("scene-7.mp4", "scene-8b.mp4") for cell in row]  # noqa: E731
    edit_rows(tmp_path, lambda rows: [swap(row) if "right" in row[0] else row for row in rows])
    assert bad_lines(tmp_path)["descriptions.csv"].faults == ("67 scenes, not 66 of 3 views each",)


def test_files_of_other_names_are_told_but_no_fault(root: Path) -> None:
    (root / TREE / "split-videos" / "testing" / "8FPS" / "notes.txt").touch()
    report = check_dataset(root)
    found = {line.what: line.found for line in report.lines}
    assert found["split-videos/testing 8FPS"] == "8 of 8 and others, not in descriptions.csv: 1 (notes.txt)"
    assert report.num_faults == 0


def test_a_rate_that_is_not_there(root: Path) -> None:
    lines = bad_lines(root, fps=24)
    needed = [
        f"{kind} 24FPS" for kind in ("split-videos/conditioning", "split-videos/testing", "video-masks/real")
    ]
    assert list(lines) == needed
    assert lines[needed[2]].faults == ("no folder; needed for scoring",)
    assert lines[needed[2]].found == "none; those at 8 fps are there"
    assert bad_lines(root, fps=25)[needed[1].replace("24", "25")].faults == (
        "no folder; needed for scoring; this rate is not published",
    )


def test_a_rate_of_which_only_some_is_there(root: Path) -> None:
    (root / TREE / "video-masks" / "real" / "24FPS").mkdir()
    lines = bad_lines(root)
    assert lines["video-masks/real 24FPS"].faults == ("missing: 8 (0001, 0002, 0003, and 5 more)",)
    assert "split-videos/testing 24FPS" in lines and "split-videos/testing 8FPS" not in lines


def test_folders_named_as_in_the_readme_are_told_apart(root: Path) -> None:
    splits = root / TREE / "split-videos"
    (splits / "testing").rename(splits / "testing-videos")
    lines = bad_lines(root)
    assert lines["split-videos/testing-videos"].faults == ("it has to be called testing",)
    assert "split-videos/testing 8FPS" in lines


def test_a_tree_without_clips(tmp_path: Path) -> None:
    write_tree(tmp_path, num_scenes=66)
    lines = bad_lines(tmp_path)
    assert lines["frame rates"].faults == ("no folder such as 24FPS",)


@pytest.mark.parametrize(
    ("tree", "says", "not_said"),
    [(TREES[0], "download_physics_iq_data.py", "hf download"), (TREES[1], "hf download", "gcloud")],
)
def test_how_to_obtain_names_the_source_of_this_tree(
    tmp_path: Path, tree: str, says: str, not_said: str
) -> None:
    write_tree(tmp_path, num_scenes=66, tree=tree)
    text = "\n".join(how_to_obtain(check_dataset(tmp_path), 24))
    assert says in text and not_said not in text and "8, 16, 24, 30 fps are published" in text
    assert tree == TREES[1] or "--fps 24" in text


def test_a_tree_under_another_name_may_be_either(tmp_path: Path) -> None:
    write_tree(tmp_path, num_scenes=66, tree="copy")
    report = check_dataset(tmp_path / "copy")
    text = "\n".join(how_to_obtain(report, None))
    assert report.kind == "unknown" and "hf download" in text and "download_physics_iq_data.py" in text


def test_two_trees_are_not_mixed(root: Path) -> None:
    (root / TREES[1] / "split-videos").mkdir(parents=True)
    with pytest.raises(DatasetError, match=f"holds {TREES[0]} and {TREES[1]}"):
        check_dataset(root)
    assert check_dataset(root / TREES[0]).num_faults == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"scenario,description,prediction,category\n", "the schema of the first release"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (",".join(COLUMNS).encode(), "has 0 rows, none of take-1"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(root: Path, content: bytes, says: str) -> None:
    (root / TREE / "descriptions.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=says):
        check_dataset(root)


def test_only_commands_import_the_check() -> None:
    """It opens reference clips: nothing that a run loads may reach it."""
    root = Path(dataset_check.__file__).parents[2]
    importers = [
        str(path.relative_to(root))
        for house in ("engine", "export", "bench")
        for path in sorted((root / house).rglob("*.py"))
        if re.search(r"^\s*(import|from) bench.dataset", path.read_text(), re.MULTILINE)
    ]
    assert importers == ["bench/commands/dataset.py", "bench/dataset/check.py", "bench/dataset/own_clips.py"]


def call(*arguments: object, status: int) -> Result:
    result = CliRunner().invoke(cli.app, ["dataset", "check", *map(str, arguments)])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


def test_the_command_says_which_tree_and_what_is_wrong(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = call(root, status=0).output
    assert "Physics-IQ, original, reduced or simulated dataset" in text and "4 cases: no fault found" in text
    one(root, "video-masks/real").unlink()
    text = call(root, "--deep", status=1).output
    assert "missing: 1 (0001)" in text and "4 cases: 1 fault" in text and "to obtain what is missing" in text
    assert "is not a folder" in call(root / "none", status=2).stderr


def test_a_short_last_frame_is_no_other_rate(root: Path) -> None:
    path = one(root, "split-videos/testing")
    write_timed(path, list(range(0, 400, 10)), Fraction(1, 80), [10] * 39 + [1], size=(64, 64))
    assert read_header(path).fps > 8.1
    assert "split-videos/testing 8FPS" not in bad_lines(root)
