"""`retake runs` and `retake cache`: what there is, and that nothing else is removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_run import SCENARIOS, Run
from typer.testing import CliRunner, Result

from engine import cli
from engine.machine import compiled
from engine.runs.folder import DATABASE, take_lock
from engine.runs.live import LIVE
from engine.runs.log_file import LOG
from engine.runs.requests import CONTROL
from engine.runs.store import RunStore
from engine.runs.trace_file import NOTES
from engine.runs.watch_page import WATCH


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def call(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


def make_run(folder: Path, *, limit: int | None = None) -> Path:
    with RunStore.create(folder, SCENARIOS) as store:
        made = Run(store=store)
        made.models.fails["generate", SCENARIOS[0].id] = ValueError("broken")
        made.go(limit=limit)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path / "runs" / "whole")
    make_run(tmp_path / "runs" / "part", limit=1)
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / DATABASE).write_bytes(b"no database" * 100)
    (tmp_path / "runs" / "no run").mkdir()
    return tmp_path / "runs"


def test_runs_are_listed_with_their_state(runs: Path) -> None:
    output = call("runs", "list").output
    assert "4 of 5" in output and "1 failed" in output and "not readable" in output
    assert "no run" not in output
    found = {Path(one["folder"]).name: one for one in json.loads(call("runs", "list", "--json", "-").stdout)}
    assert set(found) == {"whole", "part", "damaged"}
    assert (found["whole"]["num_done"], found["whole"]["num_failed"], found["whole"]["state"]) == (
        4, 1, "1 failed",
    )  # fmt: skip
    assert found["whole"]["num_takes"] >= 4 and found["whole"]["num_bytes"] > 0
    assert "4 pending" in found["part"]["state"]
    assert "no runs in elsewhere" in call("runs", "list", "elsewhere").output


@pytest.mark.parametrize("name", ["whole", "damaged"])
def test_a_run_is_removed_with_all_it_made(runs: Path, name: str) -> None:
    for written in (CONTROL, LIVE, NOTES, WATCH):  # by a run that was killed, and by who asked and watched
        (runs / name / written).touch()
    call("runs", "remove", runs / name, "--dry-run")
    assert "--yes" in call("runs", "remove", runs / name, status=2).stderr, "nobody answers here"
    assert (runs / name / DATABASE).is_file()
    assert "removed" in call("runs", "remove", runs / name, "--yes").output
    assert not (runs / name).exists() and (runs / "part" / DATABASE).is_file()


def test_what_is_not_the_runs_stays(runs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    (elsewhere / "clip.mp4").touch()
    (runs / "whole" / "dataset").mkdir()
    (runs / "whole" / "chosen" / "link").symlink_to(elsewhere)
    (runs / "whole" / "report.html").symlink_to(elsewhere / "clip.mp4")
    assert "but for dataset" in call("runs", "remove", runs / "whole", "-y").output
    assert [path.name for path in (runs / "whole").iterdir()] == ["dataset"]
    assert (elsewhere / "clip.mp4").is_file()
    assert "not a run folder" in call("runs", "remove", runs / "whole", "-y", status=2).stderr


def test_no_run_is_removed_where_one_of_them_is_none_or_is_written(runs: Path) -> None:
    call("runs", "remove", runs / "part", runs / "no run", "--yes", status=2)
    with take_lock(runs / "part"):
        assert "another process" in call("runs", "remove", runs / "part", "--yes", status=2).stderr
    assert (runs / "part" / DATABASE).is_file() and (runs / "part" / "videos").is_dir()


def test_a_dry_resume_says_what_is_left_and_changes_nothing(runs: Path) -> None:
    store = (runs / "part" / DATABASE).read_bytes()
    assert "4 pending and" in call("resume", runs / "part", "--dry-run").output
    assert "0 pending and 1 failed of 5" in call("resume", runs / "whole", "--dry-run").output
    assert (runs / "part" / DATABASE).read_bytes() == store and not (runs / "part" / LOG).exists()
    assert "not a run folder" in call("resume", runs, "--dry-run", status=2).stderr
    call("resume", runs / "damaged", "--dry-run", status=2)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "retake"
    for place in ("references/a/b", "results/c", "compiled/d", "else/e"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(b"x" * 1000)
    return folder


def test_the_cache_is_listed(cache: Path) -> None:
    output = call("cache", "list").output
    assert str(cache) in output and "reference clips" in output
    found = {one["name"]: one for one in json.loads(call("cache", "list", "--json", "-").stdout)}
    assert (found["references"]["files"], found["references"]["bytes"]) == (1, 1000)
    assert found["exports"]["files"] == 0


def test_parts_of_the_cache_are_cleared(cache: Path) -> None:
    call("cache", "clear", "references", "--dry-run")
    assert (cache / "references/a/b").is_file()
    assert "0.0 MB freed" in call("cache", "clear", "references", "kernels", "--yes").output
    assert not (cache / "references").exists() and (cache / "results/c").is_file()
    call("cache", "clear", "--all", "-y")
    assert (cache / "else/e").is_file() and not (cache / "compiled/d").exists()
    assert not (cache / "results").exists()


def test_what_cannot_be_cleared_is_said(cache: Path, tmp_path: Path) -> None:
    assert "or --all" in call("cache", "clear", status=2).stderr
    assert "or --all" in call("cache", "clear", "results", "--all", status=2).stderr
    assert "nearest: results" in call("cache", "clear", "result", status=2).stderr
    assert compiled.hold(cache / "compiled")
    try:
        assert "used by a run" in call("cache", "clear", "compiled", "-y", status=2).stderr
    finally:
        compiled.leave(cache / "compiled")
    (cache / "exports").symlink_to(tmp_path)
    assert "is a link" in call("cache", "clear", "exports", "-y", status=2).stderr
