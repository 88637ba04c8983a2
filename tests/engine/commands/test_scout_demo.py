"""The scout loop with the bundled models, as a user types it: stopped while it scouts, gone on with."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import engine
from engine.errors import StoreError
from engine.runs.store import RunStore
from engine.types import Scout

OPTIONS = (
    *("--loop", "scout", "--scouts", "4", "--scout-steps", "1", "--scout-halvings", "0", "--loops", "0"),
    *("--steps", "2", "--limit", "1", "--device", "cpu"),
)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "engine.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def call(*arguments: str | Path, status: int = 0) -> str:
    process = start(*arguments)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == status, said
    return said


def scouts_of(run: Path) -> tuple[Scout, ...]:
    try:
        with RunStore.open(run, read_only=True) as store:
            (one,) = store.scenarios()
            return store.scouts.of(one.id)
    except StoreError:
        return ()  # it is not made yet


@pytest.mark.slow
def test_stopped_while_it_scouts_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(engine.__file__).parents[1]))
    scenes, run = tmp_path / "scenes", tmp_path / "run"
    call("scenes", scenes, "--seed", "900000", "--count", "1", "--views", "center")
    process = start("run", scenes, *OPTIONS, "--out", run)
    deadline = time.monotonic() + 300
    while len(scouts_of(run)) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "no scout was stored"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "go on with: retake resume" in said
    before = scouts_of(run)
    assert 2 <= len(before) <= 4
    said = call("resume", run)
    assert "4 scouts of 1 step by consensus:" in said and "; it is scout " in said
    found = scouts_of(run)
    assert [scout.number for scout in found] == [0, 1, 2, 3] and sum(scout.kept for scout in found) == 1
    assert [scout.prompt.revision for scout in found] == [0, 0, 1, 1], "of the brief text and of the plan"
    made = re.findall(r"scout scenario=\S+ number=(\d)", (run / "run.log").read_text())
    assert len(made) == len(set(made)), "none was made twice"
    assert [one.timings for one in found[: len(before)]] == [one.timings for one in before]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('data-role="scout"') == 4 and len(list((run / "chosen").glob("*.mp4"))) == 1
