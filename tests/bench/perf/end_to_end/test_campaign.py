"""Which parts are run, in which order, and when no more: the processes are stand-ins."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bench.perf.end_to_end.__main__ import main
from bench.perf.end_to_end.campaign import LEAST_S, PARTS
from bench.perf.end_to_end.made import CLIPS, FACTS


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / CLIPS).mkdir(parents=True)
    for number in range(4):
        (folder / CLIPS / f"clip{number}.mp4").touch()
    (folder / FACTS).write_text(json.dumps({"size": "tiny", "reply_tokens": 1, "patch_tokens": 1}))
    return folder


class Processes:
    """Each writes a part; those named in `cut` only half of it, those in `broken` none."""

    def __init__(self, *, cut: str = "", broken: str = "") -> None:
        self.cut, self.broken = cut, broken
        self.asked: list[dict[str, str]] = []

    def __call__(self, command: list[str], *, check: bool) -> Any:
        words = command[4:]  # behind `python -m bench.perf.end_to_end run`
        flags = {word for word in words if word == "--no-warm-up"}
        words = [word for word in words if word not in flags]
        given = dict(zip(words[::2], words[1::2], strict=True)) | dict.fromkeys(flags, "")
        self.asked.append(given)
        out = Path(given["--out"])
        if out.stem != self.broken:
            out.write_text(json.dumps({"complete": out.stem != self.cut}))
        return subprocess.CompletedProcess(command, int(out.stem == self.broken))

    @property
    def names(self) -> list[str]:
        return [Path(given["--out"]).stem for given in self.asked]


def carry_out(
    monkeypatch: pytest.MonkeyPatch, processes: Processes, models: Path, *more: str, budget: float = 1e4
) -> int:
    monkeypatch.setattr(subprocess, "run", processes)
    words = ["all", "--models", str(models), "--parts", str(models.parent / "parts")]
    return main([*words, "--budget", str(budget), *more], started_s=time.perf_counter())


def test_all_parts_once_and_what_is_there_is_kept(
    monkeypatch: pytest.MonkeyPatch, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Processes(cut="script", broken="fastest")
    assert carry_out(monkeypatch, first, models) == 1
    assert first.names == [part.name for part in PARTS]
    asked = dict(zip(first.names, first.asked, strict=True))
    assert asked["fast"]["--scenarios"] == "4" and asked["script"]["--scenarios"] == "2", "there are 4 clips"
    assert {name for name in asked if "--no-warm-up" in asked[name]} == {
        "first-take",
        "script",
        "script-best",
    }
    assert "fastest: exit status 1" in capsys.readouterr().out
    again = Processes()
    assert carry_out(monkeypatch, again, models) == 0
    assert again.names == ["script", "fastest"]


def test_no_part_begins_without_time(
    monkeypatch: pytest.MonkeyPatch, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = Processes()
    assert carry_out(monkeypatch, none, models, budget=LEAST_S - 1) == 1 and none.asked == []
    assert "too few; the same command goes on from here" in capsys.readouterr().out


def test_only_named_parts(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    some = Processes()
    assert carry_out(monkeypatch, some, models, "--only", "patches", "fast") == 0
    assert some.names == ["fast", "patches"]
