"""The chat template of a model folder: which of the places that may hold one counts, and whether it works.

transformers has two answers for one folder: its processor and its tokenizer read different files, in
different orders. A VLM is used through its processor, so that order counts; the tokenizer's is the last
resort.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError

PLAIN = "plain ChatML, the folder has no chat template"
_MARK = "The ball rolls."


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """`source` says where it was found, for the manifest; `text` is None where there is none."""

    text: str | None
    source: str


def chat_template(folder: Path, tokenizer: Any) -> ChatTemplate:
    """The one that transformers' processor would use, else the tokenizer's own.

    Raises ModelError for a file that cannot be read, and for a template that does not take plain text.
    """
    places: dict[str, str] = {}  # of each text the first place
    for place, text in _found(folder, tokenizer):
        places.setdefault(text, place)
    if not places:
        return ChatTemplate(text=None, source=PLAIN)
    text, *_ = places
    name, *others = places.values()
    _try(folder, name, text, tokenizer)
    return ChatTemplate(text=text, source=name + (f"; another one in {', '.join(others)}" if others else ""))


def _found(folder: Path, tokenizer: Any) -> Iterator[tuple[str, str]]:
    """(place, template), those that count first."""
    for name in ("processor_config.json", "chat_template.json"):
        path = folder / name
        if path.is_file() and (template := _default(path, _read(path).get("chat_template"))):
            yield name, template
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        yield jinja.name, jinja.read_text(encoding="utf-8")
    if template := _default(folder / "tokenizer_config.json", tokenizer.chat_template):
        yield "the tokenizer", template  # its own file, or again chat_template.jinja


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", fix="copy the complete model folder") from error
    return document if isinstance(document, dict) else {}


def _default(path: Path, template: object) -> str | None:
    """Of several named templates the default one."""
    if isinstance(template, Mapping):
        if "default" not in template:
            raise ModelError(
                f"{path} has chat templates {', '.join(map(str, template))} and none named default",
                fix="put the template of a plain conversation into chat_template.jinja",
            )
        template = template["default"]
    return template if isinstance(template, str) and template else None


def _try(folder: Path, name: str, text: str, tokenizer: Any) -> None:
    """The clips are put where their marks are in the text, so the text must come out as it went in."""
    from jinja2 import TemplateError

    message = {"role": "user", "content": _MARK}
    try:
        chat = str(
            tokenizer.apply_chat_template(
                [message], chat_template=text, tokenize=False, add_generation_prompt=True
            )
        )
        problem = "it leaves out the text of the user" if chat.count(_MARK) != 1 else None
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        problem = str(error)
    if problem:
        raise ModelError(
            f"{folder}: the chat template in {name} cannot be used: {problem}",
            fix="take the template of a Qwen-VL model, which accepts the content of a message as text",
        )
