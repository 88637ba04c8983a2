"""Digests of files: remembered while a file is surely the same, and never longer."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from engine.runs import digests as digests_module
from engine.runs.digests import Ahead, FileDigests


def settled(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a file that counts as old; its digest."""
    path.write_bytes(content)
    now_ns = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    return hashlib.sha256(content).hexdigest()


def test_second_call_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, digests = tmp_path / "clip.mp4", FileDigests(tmp_path / "digests")
    expected = settled(clip, b"frames", monkeypatch)
    assert digests.digest(clip) == expected
    monkeypatch.setattr(digests_module, "file_digest", lambda path: pytest.fail("read again"))
    assert FileDigests(tmp_path / "digests").digest(clip) == expected


def test_change_of_content_is_seen_when_size_and_mtime_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, digests = tmp_path / "clip.mp4", FileDigests(tmp_path / "digests")
    settled(clip, b"frames", monkeypatch)
    before = clip.stat()
    digests.digest(clip)
    time.sleep(0.02)  # longer than the kernel's clock tick
    expected = settled(clip, b"FRAMES", monkeypatch)
    os.utime(clip, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests.digest(clip) == expected


def test_fresh_file_is_not_remembered(tmp_path: Path) -> None:
    """A second write within the same clock tick would leave every stamp as it is."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"frames")
    FileDigests(tmp_path / "digests").digest(clip)
    assert not (tmp_path / "digests").exists()


def test_damaged_record_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, digests = tmp_path / "clip.mp4", FileDigests(tmp_path / "digests")
    expected = settled(clip, b"frames", monkeypatch)
    digests.digest(clip)
    (record,) = (path for path in (tmp_path / "digests").rglob("*") if path.is_file())
    for damage in (b"", b"[1]", b"{", b"7"):
        record.write_bytes(damage)
        assert digests.digest(clip) == expected


def test_a_cache_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, blocked = tmp_path / "clip.mp4", tmp_path / "digests"
    blocked.write_bytes(b"a file where the folder would be")
    expected = settled(clip, b"frames", monkeypatch)
    assert FileDigests(blocked).digest(clip) == expected


def test_digests_ahead_are_those_of_the_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(5)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * 100)
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    with Ahead(paths[:3], FileDigests(None)) as ahead:
        assert [ahead.digest(path) for path in paths] == expected


def test_what_waits_to_be_read_is_dropped_when_something_else_fails(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    with pytest.raises(ZeroDivisionError), Ahead([path] * 3, FileDigests(None)):
        raise ZeroDivisionError
    with Ahead([path], FileDigests(None)) as ahead:
        path.unlink()
        with pytest.raises(FileNotFoundError):
            FileDigests(None).digest(path)
    assert ahead is not None
