"""A run folder's files: foreign names stay inside, a full disk ends a run, one bad name does not."""

from __future__ import annotations

import errno
import fcntl
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import SCENARIOS

from engine.errors import RunLost, StoreError, VideoError
from engine.runs.folder import (
    is_live,
    place_in,
    remove_parts,
    require_run,
    take_lock,
    unwritable,
    writing,
)
from kernels.files import whole_file

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "place", ["/etc/passwd", "../other/a.mp4", "videos/../../a.mp4", "", "a\0b", "out/a.mp4"]
)
def test_places_outside_are_refused(tmp_path: Path, place: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "out").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="not its own"):
        place_in(run, place)


def test_links_that_stay_inside_are_places(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "also").symlink_to(tmp_path / "videos")
    assert place_in(tmp_path, "also/a.mp4") == tmp_path / "also" / "a.mp4"


@pytest.mark.parametrize(
    ("given", "why", "fix"),
    [
        ("runs/c", "it does not exist", "name the folder given as --out"),
        ("runs", "it holds no run.sqlite", "name a run folder: {0}/runs/a, {0}/runs/b"),
        ("runs/a/videos", "it holds no run.sqlite", "name a run folder: {0}/runs/a"),
        ("runs/a/run.sqlite", "it is a file", "name a run folder: {0}/runs/a"),
        ("runs/a/nothing", "it does not exist", "name a run folder: {0}/runs/a"),
    ],
)
def test_what_is_no_run_is_told_with_the_runs_near_it(given: str, why: str, fix: str, tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / "runs" / name / "videos").mkdir(parents=True)
        (tmp_path / "runs" / name / "run.sqlite").touch()
        require_run(tmp_path / "runs" / name)
    with pytest.raises(StoreError) as told:
        require_run(tmp_path / given)
    assert told.value.problem == f"{tmp_path / given} is not a run folder: {why}"
    assert told.value.fix == fix.format(tmp_path)


def test_a_name_that_the_disk_refuses_is_told_and_others_have_their_folders(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / SCENARIOS[1].id).write_text("a file in the way")
    long = replace(SCENARIOS[0], output_name="x" * 260)
    found = unwritable(tmp_path, [long, *SCENARIOS[1:3]])
    assert found.keys() == {SCENARIOS[0].id, SCENARIOS[1].id}
    assert "File name too long" in found[SCENARIOS[0].id] and "File exists" in found[SCENARIOS[1].id]
    assert (tmp_path / "videos" / SCENARIOS[2].id).is_dir() and not list((tmp_path / "chosen").iterdir())


def video_error(cause: OSError) -> VideoError:
    error = VideoError("a.mp4 cannot be written", fix="check the space")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [NO_SPACE, video_error(NO_SPACE), OSError(errno.EROFS, "Read-only")])
def test_what_the_next_write_would_meet_too_ends_the_run(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(RunLost, match="takes no more writes") as caught, writing(tmp_path):
        raise error
    assert f"retake resume {tmp_path}" in caught.value.fix


@pytest.mark.parametrize(
    "error", [OSError(errno.ENAMETOOLONG, "too long"), video_error(OSError()), ValueError()]
)
def test_other_errors_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, writing(tmp_path):
        raise error
    assert caught.value is error


def test_parts_are_removed_if_only_the_lock_holder_writes_them(tmp_path: Path) -> None:
    for folder in ("videos/a", "chosen"):
        (tmp_path / folder).mkdir(parents=True)
    ours = [tmp_path / "videos/a/attempt-0.mp4", tmp_path / "chosen/x.mp4", tmp_path / "manifest.json"]
    others = [tmp_path / "report.html", tmp_path / "scores.json"]  # another process may be writing them
    for path in (*ours, *others):
        with pytest.raises(KeyboardInterrupt), whole_file(path) as part:
            part.write_text("half")
            part.rename(part.with_suffix(".kept"))
            raise KeyboardInterrupt
        kept = next(path.parent.glob(f".{path.name}.*.kept"))
        kept.rename(kept.with_suffix(".partial"))
    mine = tmp_path / "videos/a/.notes.partial"
    mine.write_text("the user's own")
    remove_parts(tmp_path)
    left = sorted(path.name for path in tmp_path.rglob("*.partial"))
    assert [name.split(".")[1] for name in left] == ["notes", "report", "scores"]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    run, target = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    (run / "run.lock").symlink_to(target)
    with pytest.raises(StoreError, match="cannot be locked"):
        take_lock(run)
    assert not target.exists()


def test_a_lock_is_waited_for_while_somebody_only_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page asks once a second whether the run goes on, and must not hinder one that starts."""
    assert not is_live(tmp_path), "there was never a run"
    take_lock(tmp_path).close()
    assert not is_live(tmp_path)
    with (tmp_path / "run.lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(looking, fcntl.LOCK_UN))
        with take_lock(tmp_path):
            assert is_live(tmp_path)
            monkeypatch.setattr(time, "sleep", lambda seconds: None)
            with pytest.raises(StoreError, match="retake unpause"):
                take_lock(tmp_path)
