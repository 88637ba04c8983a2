"""Ray itself: what is asked of it and refused; workers in processes of their own, killed; a driver killed.

Skipped without Ray, which the extras cluster and test install.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sliding import SlidingSquare
from stored_runs import stored
from tiny_run import Folders, Silent, make_folders

from engine.build.run import build_run, resume_run
from engine.cluster.pool import Pool, Workers
from engine.cluster.run import ClusterRun, build_cluster_run, resume_cluster_run
from engine.demo.layout import write_dataset
from engine.errors import ConfigError
from engine.types import Attempt

SETTINGS: dict[str, object] = {"loop.loops": 0, "loop.samples": 2, "generator.steps": 20, "schedule.ahead": 1}
"""One scenario at a time each: whoever is killed at the first of all takes is handed another one. The tiny
critic's own replies are unreadable, so a further round would not be."""
NUM_TAKES = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("tiny")
    scenes = [SlidingSquare(number) for number in range(4)]
    write_dataset(root / "four", scenes, views=("perspective-center",))
    return replace(make_folders(root), dataset=root / "four")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")


@pytest.mark.parametrize(
    ("workers", "device", "problem", "fix"),
    [
        (Workers(gpus=2, cpus=2), "cpu", "both given", "leave one of them out"),
        (Workers(cpus=2), "auto", "share a CPU", "--gpus N"),
        (Workers(gpus=2), "cpu", "a GPU of its own", "--workers N"),
        (Workers(address="10.0.0.1:6379"), "cpu", "a GPU of its own", "--workers N"),
    ],
)
def test_what_cannot_be_meant_is_refused(workers: Workers, device: str, problem: str, fix: str) -> None:
    with pytest.raises(ConfigError) as told:
        workers.check(device)
    assert problem in told.value.problem and fix in told.value.fix


@pytest.mark.parametrize(("workers", "device"), [(Workers(gpus=2), "auto"), (Workers(cpus=2), "cpu")])
def test_what_can_be_meant(workers: Workers, device: str) -> None:
    workers.check(device)


def test_without_ray_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray, which is not installed\n.*\[cluster\]"):
        Pool(Workers(gpus=2))


def test_more_gpus_than_there_are_are_refused() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"this machine has \d+ GPUs free, and 99 are asked for"):
        Pool(Workers(gpus=99))


@dataclass
class Killing(Silent):
    """Kills one of the workers when the first attempt is stored."""

    run: ClusterRun | None = None
    killed: list[int] = field(default_factory=list)

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        super().attempt(scenario_id, attempt)
        if not self.killed:
            assert self.run is not None and self.run.pool is not None
            pid = self.run.pool.process(0)
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)


def test_two_workers_with_one_killed_store_what_one_engine_stores(folders: Folders, tmp_path: Path) -> None:
    """In processes of their own, with the tiny critic's own replies."""
    pytest.importorskip("ray")
    with build_run(folders.config(tmp_path / "single", settings=SETTINGS)) as one:
        one.execute(Silent())
    expected = stored(tmp_path / "single")
    assert len(expected["videos"]) == NUM_TAKES

    config = folders.config(tmp_path / "two", settings=SETTINGS)
    with build_cluster_run(config, Workers(cpus=2), wait_for=2) as two:
        two.execute(Silent())
    assert stored(tmp_path / "two") == expected
    log = (tmp_path / "two" / "run.log").read_text()
    assert "worker=0 ready" in log and "worker=1 ready" in log and "was lost" not in log

    config = folders.config(tmp_path / "killed", settings=SETTINGS)
    with build_cluster_run(config, Workers(cpus=2), wait_for=2) as run:
        display = Killing(run=run)
        run.execute(display)
    assert stored(tmp_path / "killed") == expected
    assert display.killed and len(set(display.attempts)) == len(display.attempts)
    log = (tmp_path / "killed" / "run.log").read_text()
    assert "worker 0 on node" in log and "was lost and is started again" in log


@pytest.mark.slow
def test_a_killed_driver_leaves_no_worker_and_is_resumed_by_one_engine_or_two(
    folders: Folders, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    with build_run(folders.config(tmp_path / "single", settings=SETTINGS)) as one:
        one.execute(Silent())
    for name, resume in (
        ("one", resume_run),
        ("two", lambda out: resume_cluster_run(out, Workers(cpus=2))),
    ):
        out = tmp_path / name
        _kill_after_one_attempt(folders, out)
        with resume(out) as run:
            display = Silent()
            run.execute(display)
        assert stored(out) == stored(tmp_path / "single")
        assert 0 < len(display.attempts) < NUM_TAKES, "what was stored is not made again"


def _kill_after_one_attempt(folders: Folders, out: Path) -> None:
    options = ["--device", "cpu", "--dtype", "fp32", "--workers", "2", "--loops", "0", "--samples", "2"]
    options += ["--steps", "20", "--ahead", "1"]
    places = ["--generator", str(folders.generator), "--critic", str(folders.critic), "--out", str(out)]
    command = [sys.executable, "-m", "engine.cli", "run", str(folders.dataset), *options]
    driver = subprocess.Popen([*command, *places], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while not _num_attempts(out):
            assert driver.poll() is None, driver.stderr and driver.stderr.read().decode()
            time.sleep(0.02)
        workers = _workers_of(out)
    finally:
        driver.kill()
        driver.wait()
    assert len(workers) == 2
    until_s = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < until_s, "workers outlive their driver"
        time.sleep(0.1)


def _num_attempts(out: Path) -> int:
    if not (out / "run.sqlite").exists():
        return 0
    with sqlite3.connect(f"file:{out}/run.sqlite?mode=ro", uri=True) as database:
        (found,) = database.execute("SELECT count(*) FROM attempts").fetchone()
    return int(found)


def _workers_of(out: Path) -> list[int]:
    """Processes that Ray started for this run, by the name that it gives them."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes()
            environment = (place / "environ").read_bytes()
        except OSError:
            continue
        if line.startswith(b"ray::Worker") and b"PYTEST_CURRENT_TEST" in environment:
            found.append(int(place.name))
    return found
