"""Whatever may be wrong with a document is one error with its path and a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.artifacts import documents
from export.artifacts.documents import read_document
from export.spec import ExportError

KINDS = {"name": str, "sizes": dict}


def test_a_whole_document_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"name": "n", "sizes": {}, "more": 1, "schema": 3}')
    assert read_document(path, KINDS, fix="f", schema=3)["more"] == 1
    with pytest.raises(ExportError, match="has schema 3; this version reads 4"):
        read_document(path, KINDS, fix="f", schema=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": 1, "sizes": {}}', "name is int, not str"),
        ('{"name": "n"}', "KeyError"),
        ("nonsense", "JSONDecodeError"),
        ('{"a":' * 10**5, "nested too deep"),
        ("3", "it is a int, not an object"),
        (" " * 2000 + "{}", "it has 2002 bytes, more than 1000"),
    ],
)
def test_anything_else_is_an_error(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text.startswith(" "):
        monkeypatch.setattr(documents, "MAX_BYTES", 1000)
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(ExportError, match=message) as caught:
        read_document(path, KINDS, fix="copy it again")
    assert str(path) in caught.value.problem and caught.value.fix == "copy it again"


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot be read: .*No such file"):
        read_document(tmp_path / "d.json", KINDS, fix="f")
