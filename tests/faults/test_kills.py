"""The short form of `make faults`: killed in front of file events, a run loses and repeats nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import syscalls
from faults.sabotage import SABOTAGES

ROOT = Path(__file__).resolve().parents[2]
needs_filter = pytest.mark.skipif(syscalls.unavailable() is not None, reason=str(syscalls.unavailable()))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "RETAKE_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@needs_filter
def test_killed_in_front_of_file_events_nothing_is_lost_or_repeated() -> None:
    done = run("faults.short")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found.pop("kills") >= 20
    assert found == {"lost": [], "duplicated": [], "corrupt": [], "unequal": [], "unclear": []}


@needs_filter
@pytest.mark.slow
@pytest.mark.parametrize("name", SABOTAGES)
def test_a_broken_engine_is_found_out(name: str) -> None:
    cost, _ = SABOTAGES[name]
    done = run("faults.short", name)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)[cost], f"{name} shows in no count of what is {cost}"


@needs_filter
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_fault_costs_nothing_and_is_answered_clearly(tmp_path: Path) -> None:
    table = tmp_path / "faults.json"
    work = ("--work", str(tmp_path / "work"), "--stride", "30")
    done = run("faults", "trials", *work)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    again = run("faults", "trials", *work)
    assert again.returncode == 0 and "trials" in again.stderr, "what is on record is not tried again"
    assert run("faults", "table", *work, "--out", str(table)).returncode == 0
    made = json.loads(table.read_text())
    assert made["summary"].pop("kills") >= 60
    assert set(made["summary"].values()) == {0}
    assert [row["fault"] for row in made["rows"] if row["unclear"]] == []


def test_help_says_what_it_does_and_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OMP_NUM_THREADS", "RETAKE_THREADS"):
        monkeypatch.setenv(name, "1")  # as the module does when it is imported, and here undone
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("faults.__main__").main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for word in ("trials", "soak", "table", "--only", "--work", "goes on there"):
        assert word in told
