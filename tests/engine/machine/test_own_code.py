"""Code that a model brings is found wherever a configuration names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelError
from engine.machine.own_code import refuse_own_code

NAMED = {"auto_map": {"AutoImageProcessor": "mine.Processor"}}


@pytest.mark.parametrize("document", [NAMED, {"image_processor": NAMED}, {"parts": [{"a": 1}, [NAMED]]}])
def test_at_whatever_depth(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match=r"processor_config.json asks for code.*mine\.Processor"):
        refuse_own_code(tmp_path)


def test_not_in_other_files_and_not_where_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(NAMED))
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {}, "vision_config": {"auto_map": None}}))
    refuse_own_code(tmp_path)


@pytest.mark.parametrize(("text", "problem"), [("{", "is not JSON"), ("[]", "no JSON object")])
def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ModelError, match=problem):
        refuse_own_code(tmp_path)
