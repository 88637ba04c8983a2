"""Which chat template of a folder counts: transformers is asked, for every combination of places."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_vlm import CHAT_TEMPLATE, tiny_tokenizer
from transformers import AutoTokenizer, ProcessorMixin

from engine.critics.qwen_vl.chat_template import PLAIN, chat_template
from engine.errors import ModelError

PLACES = ("processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json")


def named(place: str) -> str:
    return "{# " + place + " #}" + CHAT_TEMPLATE


def put(folder: Path, place: str, template: object) -> None:
    path = folder / place
    if place.endswith(".jinja"):
        path.write_text(str(template))
        return
    document = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(document | {"chat_template": template}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer without a template."""
    tiny_tokenizer(None).save_pretrained(tmp_path)
    return tmp_path


def tokenizer_of(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize(
    "places", [chosen for size in range(5) for chosen in itertools.combinations(PLACES, size)]
)
def test_the_order_is_that_of_the_librarys_processor(folder: Path, places: tuple[str, ...]) -> None:
    for place in places:
        put(folder, place, named(place))
    tokenizer = tokenizer_of(folder)
    of_processor, _ = ProcessorMixin.get_processor_dict(folder)
    expected = of_processor.get("chat_template") or tokenizer.chat_template
    found = chat_template(folder, tokenizer)
    assert found.text == expected
    if not places:
        assert found.source == PLAIN
        return
    first, *others = places
    assert found.text == named(first)
    assert found.source.startswith("the tokenizer" if first == "tokenizer_config.json" else first)
    hidden = "chat_template.jinja" in places and "tokenizer_config.json" in others  # the file wins
    assert ("another one in" in found.source) == (len(others) - hidden > 0)


def test_equal_templates_are_not_another_one(folder: Path) -> None:
    for place in PLACES:
        put(folder, place, CHAT_TEMPLATE)
    assert chat_template(folder, tokenizer_of(folder)).source == "processor_config.json"


def test_of_named_templates_the_default_counts(folder: Path) -> None:
    put(folder, "processor_config.json", {"tool_use": "{{ tools }}", "default": CHAT_TEMPLATE})
    assert chat_template(folder, tokenizer_of(folder)).text == CHAT_TEMPLATE
    put(folder, "processor_config.json", {"tool_use": "{{ tools }}"})
    with pytest.raises(ModelError, match="tool_use and none named default"):
        chat_template(folder, tokenizer_of(folder))


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}", ""),
        ("{{ messages[0]['role'] }}", "leaves out the text"),
        ("{{ raise_exception('only images') }}", "only images"),
        ("{% for m in messages %}", "unexpected|end"),
    ],
)
def test_a_template_that_takes_no_text_is_refused(folder: Path, template: str, problem: str) -> None:
    put(folder, "chat_template.json", template)
    with pytest.raises(ModelError, match=f"in chat_template.json cannot be used: .*(?i:{problem})"):
        chat_template(folder, tokenizer_of(folder))


def test_a_broken_file_is_named(folder: Path) -> None:
    (folder / "chat_template.json").write_text("{")
    with pytest.raises(ModelError, match=r"chat_template\.json is not JSON"):
        chat_template(folder, tokenizer_of(folder))
