"""Compiled code is kept while it is small, made again when it is not, and never taken from who uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.machine import compiled
from engine.machine.compiled import LOCK, hold

HOLDER = """
import sys
from pathlib import Path
from engine.machine.compiled import hold
assert hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_held", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an entry of 1000 bytes."""
    (tmp_path / "compiled" / "ab").mkdir(parents=True)
    (tmp_path / "compiled" / "ab" / "kernel.py").write_bytes(bytes(1000))
    return tmp_path / "compiled"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_folder_within_its_limit_stays(folder: Path) -> None:
    assert hold(folder, limit_bytes=1000)
    assert names(folder) == {"ab/kernel.py", LOCK}


def test_one_beyond_it_is_emptied_at_the_next_start(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "mine").touch()
    (folder / "link").symlink_to(outside)
    assert hold(folder, limit_bytes=999)
    assert names(folder) == {LOCK} and (outside / "mine").is_file()
    (folder / "new").write_bytes(bytes(2000))
    assert hold(folder, limit_bytes=999), "this process holds it already"
    assert "new" in names(folder)


def test_nothing_is_removed_while_another_process_holds_it(folder: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert hold(folder, limit_bytes=999)
        assert "ab/kernel.py" in names(folder)
        other.stdin.close()
    compiled._held.pop(folder).close()  # as at the end of this process
    assert hold(folder, limit_bytes=999)
    assert names(folder) == {LOCK}


def test_a_folder_that_cannot_be_made_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not hold(tmp_path / "file" / "compiled")
