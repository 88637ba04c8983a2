"""Which file answers which case: every way to name one, and every way to be unclear."""

from __future__ import annotations

from pathlib import Path

import pytest
from submission_tree import write_tree

from bench.submission.names import find_videos, match_names, read_map
from engine.datasets.physics_iq import Description, read_descriptions
from engine.errors import DatasetError

LEFT = "0001_perspective-left_trimmed-scene-0.mp4"
CENTER = "0002_perspective-center_trimmed-scene-0.mp4"


@pytest.fixture
def rows(tmp_path: Path) -> tuple[Description, ...]:
    write_tree(tmp_path / "data", num_scenes=2)
    return read_descriptions(tmp_path / "data")


@pytest.mark.parametrize(
    "name",
    [
        LEFT,
        "0001_perspective-left_trimmed-scene-0.MKV",
        "0001_perspective-left_take-1_trimmed-scene-0.mp4",
        "0001_full-videos_24FPS_perspective-left_take-1_trimmed-scene-0.mp4",
        "0001_seed7.webm",
        "0001-anything.mp4",
        "0001.mov",
    ],
)
def test_a_file_is_known_by_name_scenario_or_id(rows: tuple[Description, ...], name: str) -> None:
    assert match_names([Path(name)], rows) == {LEFT: Path(name)}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("clip.mp4", "no name of descriptions.csv, no id in front"),
        ("00011_x.mp4", "no name of descriptions.csv, no id in front"),
        ("0999_x.mp4", "no row has the id 0999"),
        ("0007_x.mp4", "0007 is an id of take 2"),
        ("0007_perspective-left_take-2_trimmed-scene-0.mp4", "0007 is an id of take 2"),
        ("0001_perspective-right_x.mp4", "the id is of perspective-left, the name says another view"),
        ("0001_trimmed-scene-1.mp4", "the id is of trimmed-scene-0, the name says another scene"),
    ],
)
def test_a_file_without_a_case_is_listed(rows: tuple[Description, ...], name: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        match_names([Path(CENTER), Path(name)], rows)


def test_all_that_is_unclear_is_listed_at_once(rows: tuple[Description, ...]) -> None:
    files = [Path(name) for name in ("0001_a.mp4", "0001_b.mp4", "x.mp4", CENTER)]
    with pytest.raises(DatasetError) as error:
        match_names(files, rows)
    assert error.value.problem.splitlines() == [
        "2 files that cannot be told apart or assigned to a case:",
        "  x.mp4: no name of descriptions.csv, no id in front",
        f"  0001_a.mp4, 0001_b.mp4: 2 files for {LEFT}",
    ]


def test_a_table_names_files_that_are_called_anything(tmp_path: Path, rows: tuple[Description, ...]) -> None:
    videos = tmp_path / "videos" / "deep"
    videos.mkdir(parents=True)
    (videos / "x.mp4").touch()
    (tmp_path / "y.mp4").touch()
    table = tmp_path / "map.csv"
    table.write_text(f"file,generated_video_name\ndeep/x.mp4,{LEFT}\n{tmp_path / 'y.mp4'},{CENTER}\n")
    matches = read_map(table, tmp_path / "videos", rows)
    assert matches == {LEFT: videos / "x.mp4", CENTER: tmp_path / "y.mp4"}


def test_every_wrong_line_of_a_table_is_listed(tmp_path: Path, rows: tuple[Description, ...]) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    table = tmp_path / "map.csv"
    lines = [f"a.mp4,{LEFT}", "a.mp4,nobody.mp4", f"none.mp4,{CENTER}", f"b.mp4,{LEFT}", f"a.mp4,{CENTER}"]
    table.write_text("\n".join(["file,generated_video_name", *lines]))
    with pytest.raises(DatasetError) as error:
        read_map(table, tmp_path, rows)
    assert [line.strip()[:7] for line in error.value.problem.splitlines()] == [
        "4 wrong",
        "line 3:",
        "line 4:",
        "line 5:",
        "line 6:",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,case\nx,y\n", "has no column file, generated_video_name; it has: name, case"),
        ("file,generated_video_name\n", "lists no file"),
        (None, "is not a file"),
    ],
)
def test_a_table_of_another_form_is_refused(
    tmp_path: Path, rows: tuple[Description, ...], text: str | None, problem: str
) -> None:
    if text is not None:
        (tmp_path / "map.csv").write_text(text)
    with pytest.raises(DatasetError, match=problem):
        read_map(tmp_path / "map.csv", tmp_path, rows)


def test_videos_of_a_folder_or_of_a_run(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.WEBM", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).touch()
    videos, others = find_videos(tmp_path)
    assert [path.name for path in videos] == ["a.mp4", "b.WEBM"] and others == ["notes.txt"]
    (tmp_path / "run.sqlite").touch()
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "c.mp4").touch()
    assert [path.name for path in find_videos(tmp_path)[0]] == ["c.mp4"]


def test_a_folder_without_videos_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "0001").mkdir()
    with pytest.raises(DatasetError, match=r"holds no video; .*; it holds the folders 0001"):
        find_videos(tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        find_videos(tmp_path / "none")
