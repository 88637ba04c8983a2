"""Compiled code is kept as it was left, made again otherwise, and never taken from a process that uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.machine import compiled
from engine.machine.compiled import INDEX, LOCK, hold, leave

HOLDER = """
import sys
from pathlib import Path
from engine.machine.compiled import hold
assert hold(Path(sys.argv[1]))
(Path(sys.argv[1]) / "cd").mkdir()
(Path(sys.argv[1]) / "cd" / "kernel.so").write_bytes(bytes(500))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_held", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As a process left it, with an entry of 1000 bytes."""
    folder = tmp_path / "compiled"
    assert hold(folder)
    (folder / "ab").mkdir()
    (folder / "ab" / "kernel.py").write_bytes(bytes(1000))
    leave(folder)
    return folder


def names(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {LOCK, INDEX}


def test_what_a_process_left_within_the_limit_stays(folder: Path) -> None:
    assert hold(folder, limit_bytes=1000)
    assert names(folder) == {"ab/kernel.py"}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_beyond_the_limit_all_is_removed_at_the_next_start(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "mine").touch()
    (folder / "link").symlink_to(outside)
    assert hold(folder, limit_bytes=999)
    assert names(folder) == set() and (outside / "mine").is_file()
    (folder / "new").write_bytes(bytes(2000))
    assert hold(folder, limit_bytes=999), "this process holds it already"
    assert names(folder) == {"new"}


@pytest.mark.parametrize("content", [b"", bytes(999), b"\1" * 1000])
def test_a_damaged_file_is_removed_alone(folder: Path, content: bytes) -> None:
    assert hold(folder)
    (folder / "whole").touch()
    leave(folder)
    (folder / "ab" / "kernel.py").write_bytes(content)
    assert hold(folder)
    assert names(folder) == {"whole"}


@pytest.mark.parametrize("index", [None, "", "[]", '{"ab/kernel.py": 7}'])
def test_without_a_whole_index_nothing_is_trusted(folder: Path, index: str | None) -> None:
    (folder / INDEX).unlink()
    if index is not None:
        (folder / INDEX).write_text(index)
    assert hold(folder)
    assert names(folder) == set()


def test_nothing_is_removed_while_another_process_holds_it(folder: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert hold(folder, limit_bytes=999)
        assert names(folder) == {"ab/kernel.py", "cd/kernel.so"}
        other.stdin.close()
    assert names(folder) == {"ab/kernel.py", "cd/kernel.so"}
    compiled._held.pop(folder).close()  # as where this process is killed: the other one left its index
    assert hold(folder, limit_bytes=1500)
    assert names(folder) == {"ab/kernel.py", "cd/kernel.so"}
    leave(folder)
    assert hold(folder, limit_bytes=1499)
    assert names(folder) == set()


def test_a_folder_that_cannot_be_made_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not hold(tmp_path / "file" / "compiled")
