"""A run whose folder fails it: a full disk, a name that cannot be written, takes that are gone or changed."""

from __future__ import annotations

import errno
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import Folders, Silent, make_folders, script_the_critic

from engine.build import engine as build
from engine.build.run import build_run, resume_run
from engine.errors import RunLost, StoreError
from engine.runs.store import RunStore
from engine.types import Frames, Outcome


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    script_the_critic(monkeypatch)


@pytest.fixture
def finished(folders: Folders, tmp_path: Path) -> tuple[Path, dict[str, Outcome]]:
    with build_run(folders.config(tmp_path / "run", settings={"loop.loops": 1})) as run:
        return tmp_path / "run", run.execute(Silent())


def facts(outcomes: dict[str, Outcome]) -> dict[str, object]:
    return {
        key: (one.chosen, one.failure, [replace(a, timings={}) for a in one.attempts])
        for key, one in outcomes.items()
    }


def fail_from(monkeypatch: pytest.MonkeyPatch, call: int, error: Exception) -> list[int]:
    """The `call`-th video from now on cannot be written, nor can any later one."""
    calls: list[int] = []
    real = build.write_mp4

    def write(path: Path, frames: Frames, fps: float, *, note: str | None) -> None:
        calls.append(len(calls))
        if len(calls) >= call:
            raise error
        real(path, frames, fps, note=note)

    monkeypatch.setattr(build, "write_mp4", write)
    return calls


def test_a_full_disk_ends_the_run_at_once_and_resume_goes_on(
    folders: Folders,
    finished: tuple[Path, dict[str, Outcome]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "full"
    settings: dict[str, object] = {"loop.loops": 1, "schedule.overlap": False}
    with monkeypatch.context() as patch:
        calls = fail_from(patch, 2, OSError(errno.ENOSPC, "No space left on device"))
        with build_run(folders.config(out, settings=settings)) as run, pytest.raises(RunLost):
            run.execute(Silent())
        assert len(calls) == 2, "another scenario was begun"
    with RunStore.open(out, read_only=True) as store:
        assert store.outcomes() == {} and sum(len(store.attempts(s.id)) for s in store.scenarios()) == 1
    with resume_run(out) as run:
        assert facts(run.execute(Silent())) == facts(finished[1])


def test_a_name_that_cannot_be_written_costs_its_scenario_before_it_is_made(
    folders: Folders, tmp_path: Path
) -> None:
    with build_run(folders.config(tmp_path / "run", settings={"loop.loops": 0})) as run:
        first, second = (scenario.id for scenario in run._store.scenarios())
        in_the_way = tmp_path / "run" / "videos" / first
        in_the_way.rmdir()
        in_the_way.write_text("a file")
        display = Silent()
        outcomes = run.execute(display)
    assert "cannot be written" in (outcomes[first].failure or "") and outcomes[second].chosen == 0
    assert display.attempts == [(second, 0)]
    in_the_way.unlink()
    with resume_run(tmp_path / "run") as run:
        assert run.execute(Silent())[first].chosen == 0


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_take_that_is_not_the_stored_one_is_refused_or_made_again(
    finished: tuple[Path, dict[str, Outcome]], damage: str
) -> None:
    out, before = finished
    first, second = before
    take = out / before[first].attempts[1].video_path
    if damage == "gone":
        take.unlink()
    else:
        other = (out / before[second].attempts[1].video_path).read_bytes()
        take.write_bytes(take.read_bytes()[:500] if damage == "cut" else other)
    with pytest.raises(StoreError, match=r"the first videos/.*/attempt-1\.mp4") as caught:
        resume_run(out)
    assert "--remake-takes" in caught.value.fix
    display = Silent()
    with resume_run(out, remake_takes=True) as run:
        assert facts(run.execute(display)) == facts(before)
    assert display.attempts == [(first, 1)]
    with RunStore.open(out, read_only=True) as store:
        assert store.damaged_takes() == {}


def test_a_cut_take_of_a_run_without_digests_is_told_and_its_chosen_copy_kept(
    finished: tuple[Path, dict[str, Outcome]],
) -> None:
    out, before = finished
    with sqlite3.connect(out / "run.sqlite") as database:
        database.execute("UPDATE attempts SET video_sha256 = NULL")  # as older versions left it
    first = next(iter(before.values()))
    assert first.chosen is not None
    take = out / first.attempts[first.chosen].video_path
    clips = {path: path.read_bytes() for path in (out / "chosen").iterdir()}
    take.write_bytes(take.read_bytes()[:500])
    with pytest.raises(StoreError, match=re.escape(take.name)):
        resume_run(out)
    with RunStore.open(out) as store:
        assert store.restore_chosen() == ()
    assert {path: path.read_bytes() for path in (out / "chosen").iterdir()} == clips


def test_a_chosen_clip_that_was_removed_comes_back(finished: tuple[Path, dict[str, Outcome]]) -> None:
    out, _ = finished
    clips = {path: path.read_bytes() for path in (out / "chosen").iterdir()}
    next(iter(clips)).unlink()
    with resume_run(out) as run:
        assert run.num_pending == 0
    assert {path: path.read_bytes() for path in (out / "chosen").iterdir()} == clips
