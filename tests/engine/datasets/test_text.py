"""Captions and tables as people save them: other encodings, open quotes, giant cells are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.datasets import folder
from engine.datasets._text import read_rows, read_text
from engine.errors import DatasetError
from engine.video.files import write_mp4


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_mp4(tmp_path / "a.mp4", np.zeros((24, 64, 64, 3), np.uint8), 8.0)
    return tmp_path


def test_a_caption_in_another_encoding_is_refused_with_its_line(own: Path) -> None:
    (own / "a.txt").write_bytes(b"a ball rolls\nto the caf\xe9 table")
    with pytest.raises(DatasetError, match=r"a\.txt, line 2: byte 0xe9 is not UTF-8") as error:
        folder.open_dataset(own)
    assert "UTF-8" in error.value.fix


def test_a_table_saved_by_a_spreadsheet_is_refused_with_the_way_to_save_it(own: Path) -> None:
    (own / "prompts.csv").write_bytes(b"file,text\r\na.mp4,the ball\x92s path bends\r\n")
    with pytest.raises(DatasetError, match=r"prompts\.csv, line 2: byte 0x92") as error:
        folder.open_dataset(own)
    assert "CSV UTF-8" in error.value.fix


def test_a_byte_order_mark_is_no_part_of_the_text(own: Path) -> None:
    (own / "a.txt").write_text("\ufeffa ball", encoding="utf-8")
    (own / "prompts.csv").write_text("\ufefffile,text\n", encoding="utf-8")
    assert folder.open_dataset(own).texts == {"a.mp4": "a ball"}


@pytest.mark.parametrize("cell", ['"' + "x" * 200_000 + '"', "a\0b"])
def test_a_cell_that_cannot_be_read_is_refused(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text(f"file,text\na.mp4,fine\nb.mp4,{cell}\n")
    try:
        rows = read_rows(tmp_path / "t.csv", ("file", "text"), fix="f", fix_columns="c")
    except DatasetError as error:
        assert "t.csv, line 3" in error.problem
    else:
        assert rows[1] == (3, {"file": "b.mp4", "text": cell}), "read whole"


def test_a_missing_cell_is_empty_and_a_missing_column_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,text\na.mp4\n")
    assert read_rows(tmp_path / "t.csv", ("file", "text"), fix="f", fix_columns="c") == [
        (2, {"file": "a.mp4", "text": ""})
    ]
    with pytest.raises(DatasetError, match=r"no column name; it has: file, text \(another schema\)"):
        read_rows(tmp_path / "t.csv", ("name",), fix="f", fix_columns="c", telling={"text": "another schema"})


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        read_text(tmp_path, fix="f")
