"""Digests of clips: a missing one is named, and files are written whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.files import write_whole
from bench.scoring.file_digests import sha256
from engine.errors import VideoError
from engine.runs.digests import FileDigests


def test_missing_file_is_named(tmp_path: Path) -> None:
    for digests in (None, FileDigests(None), FileDigests(tmp_path / "digests")):
        with pytest.raises(VideoError, match=r"absent\.mp4 does not exist"):
            sha256(tmp_path / "absent.mp4", digests)


def test_write_whole_leaves_no_partial_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "file", b"1")
    write_whole(tmp_path / "new" / "file", b"2")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    assert (tmp_path / "new" / "file").read_bytes() == b"2"
