"""Files that several processes write at once."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels.files import file_digest, inside, name_fault, read_json, whole_file


def write_whole(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def test_a_pipe_is_written_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)  # both, so that nobody waits
    with whole_file(pipe) as part:
        part.write_text("all of it")
    assert os.read(reader, 100) == b"all of it" and pipe.is_fifo()
    os.close(reader)


def test_a_device_is_written_as_it_is() -> None:
    with whole_file(Path("/dev/stdout")) as part:
        assert part == Path("/dev/stdout")


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "choice.json"
    texts = [str(digit) * 20_000 for digit in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_whole(path, text), texts * 8))
    assert path.read_text(encoding="utf-8") in texts
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "choice.json"
    write_whole(path, "old")

    def refuse(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_gets_the_rights_that_files_get_here(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "choice.json", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "choice.json").stat().st_mode & 0o777 == 0o640


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "b")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0", "caf\udce9.mp4"])
def test_names_that_no_file_of_ours_gets(name: str) -> None:
    assert name_fault(name) is not None


def test_plain_names(tmp_path: Path) -> None:
    for name in ("a.mp4", "[a] *?.mp4", "café 球", "..."):
        assert name_fault(name) is None and inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("text", ["[" * 99_999, '{"a":' * 99_999, "", "{", "\ufeff[", "9" * 5000])
def test_what_is_no_json_is_a_value_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError):
        read_json(tmp_path / "a.json")
