"""A tokenizer is read once, changed by a caller for itself alone, and again when its folder changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from tiny_vlm import tiny_tokenizer

from engine.machine.tokenizer import read_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    library = transformers.AutoTokenizer.from_pretrained

    def counted(folder: Path, **options: bool) -> object:
        seen.append(folder)
        return library(folder, **options)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", counted)
    return seen


def test_it_is_read_once_and_each_caller_has_its_own_template(folder: Path, readings: list[Path]) -> None:
    first, second = read_tokenizer(folder), read_tokenizer(folder)
    assert readings == [folder]
    original = second.chat_template
    first.chat_template = "another"
    assert second.chat_template == original == read_tokenizer(folder).chat_template != "another"
    text = "the ball falls"
    assert first(text).input_ids == second(text).input_ids == tiny_tokenizer()(text).input_ids != []
    assert second.decode(second(text).input_ids) == text


def test_a_changed_folder_is_read_again(folder: Path, readings: list[Path]) -> None:
    read_tokenizer(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    assert read_tokenizer(folder).chat_template == "{{ messages[0]['content'] }}"
    assert len(readings) == 2
