"""Digests of files: remembered while a file is surely the same, and never longer."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from bench.files import write_whole
from bench.scoring import file_digests
from bench.scoring.file_digests import FileDigests
from engine.errors import VideoError


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
    monkeypatch.setattr(file_digests, "sha256", lambda path: pytest.fail("read again"))
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


def test_missing_file_is_named(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "digests"):
        with pytest.raises(VideoError, match=r"absent\.mp4 does not exist"):
            FileDigests(folder).digest(tmp_path / "absent.mp4")


def test_write_whole_leaves_no_partial_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "file", b"1")
    write_whole(tmp_path / "new" / "file", b"2")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    assert (tmp_path / "new" / "file").read_bytes() == b"2"
