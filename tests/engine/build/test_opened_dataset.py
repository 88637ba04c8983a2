"""What is no dataset is told with the one that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.build.opened_dataset import open_dataset, require_dataset
from engine.errors import DatasetError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A run with a benchmark and takes in it, beside clips with texts."""
    (tmp_path / "a run" / "dataset" / "physics-IQ-benchmark" / "split-videos" / "testing").mkdir(parents=True)
    (tmp_path / "a run" / "dataset" / "truth").mkdir()
    (tmp_path / "a run" / "chosen").mkdir()
    (tmp_path / "a run" / "chosen" / "take.mp4").touch()
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "a.txt", "b.MOV"):
        (tmp_path / "clips" / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("a run", "a run/dataset"),
        ("a run/dataset/truth", "a run/dataset"),
        ("a run/dataset/physics-IQ-benchmark/split-videos/testing", "a run/dataset/physics-IQ-benchmark"),
        (".", "clips"),
    ],
)
def test_the_dataset_near_a_folder_is_named(given: str, near: str, place: Path) -> None:
    with pytest.raises(DatasetError, match="holds neither clips nor a benchmark") as told:
        open_dataset(place / given)
    assert str(place / near) in told.value.fix and "chosen" not in told.value.fix


@pytest.mark.parametrize("given", ["a run/dataset", "a run/dataset/physics-IQ-benchmark", "clips", "nothing"])
def test_what_may_be_one_is_left_to_its_reader(given: str, place: Path) -> None:
    require_dataset(place / given)


def test_a_folder_that_may_not_be_read_is_no_dataset(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read each, so the refusal is given here."""
    listed = Path.iterdir

    def refusing(folder: Path) -> object:
        if folder.name == "clips":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refusing)
    require_dataset(place)
