"""The log of a run: whole from the first record on, and never in the way of the run."""

from __future__ import annotations

import errno
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.runs.log_file import LOG, RunLog

said = logging.getLogger("engine.somewhere")


@pytest.fixture
def log() -> Iterator[RunLog]:
    made = RunLog()
    yield made
    made.close()


def lines(folder: Path) -> list[str]:
    return [line.partition(": ")[2] for line in (folder / LOG).read_text().splitlines()]


def test_what_was_said_before_there_was_a_folder_is_in_it(log: RunLog, tmp_path: Path) -> None:
    said.info("chosen %s", "early")
    logging.getLogger("theirs").warning("theirs")
    said.debug("a detail")
    log.into(tmp_path)
    said.info("later")
    found = lines(tmp_path)
    assert found[:2] == ["chosen early", "theirs"] and found[-1] == "later"
    assert found[2].startswith("process=") and len(found) == 4
    log.close()
    said.warning("afterwards")
    assert lines(tmp_path) == found


def test_a_link_out_of_the_folder_is_refused(log: RunLog, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOG).symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match="symbolic link"):
        log.into(tmp_path / "run")
    assert not (tmp_path / "precious").exists()


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_left_to_the_store_to_tell(
    log: RunLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.into(tmp_path)
    assert log._file is not None
    log._file.setStream(_Full())
    said.info("lost")
    assert capsys.readouterr().err == ""
