"""`retake dataset check` on a folder of own clips says what a run would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from engine import cli
from engine.video.files import write_mp4


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "250")
    for name, num_frames in (("a", 24), ("b", 32)):
        write_mp4(tmp_path / f"{name}.mp4", np.zeros((num_frames, 32, 48, 3), np.uint8), 8.0)
        (tmp_path / f"{name}.txt").write_text("A ball falls.")
    return tmp_path


def check(root: Path, *options: str, status: int) -> Result:
    result = CliRunner().invoke(cli.app, ["dataset", "check", str(root), *options])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


@pytest.mark.parametrize("options", [(), ("--deep",)], ids=["headers", "deep"])
def test_clips_in_order(root: Path, options: tuple[str, ...]) -> None:
    output = " ".join(check(root, *options, status=0).output.split())
    assert "your own clips" in output and "2 readable: 3.0 to 4.0 s, 8 to 8 fps, 48x32" in output
    assert "2 cases: no fault found" in output and f"retake run {root}" in output


def test_every_bad_clip_is_named(root: Path) -> None:
    write_mp4(root / "a.mp4", np.zeros((8, 32, 48, 3), np.uint8), 8.0)
    (root / "b.mp4").write_bytes(b"no video")
    output = " ".join(check(root, status=1).output.split())
    assert "a.mp4 is 1.00 s long" in output and "b.mp4" in output and "2 faults" in output


def test_a_missing_text_is_a_fault_with_its_fix(root: Path) -> None:
    (root / "b.txt").unlink()
    output = check(root, status=1).output
    assert "have no text: b.mp4" in output and "STEM.txt" in output


def test_a_rate_is_for_benchmarks(root: Path) -> None:
    assert "leave out --fps" in check(root, "--fps", "8", status=2).stderr
