"""The JSON object in the text that a critic wrote; what the object means is read elsewhere (schema.py).

Invariant: any text gives a value, never an exception, in a time that is bounded by MAX_REPLY and MAX_BRACES.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_REPLY = 65_536
"""Characters of a reply that are looked at: far more than any token limit here lets a model write."""
MAX_BRACES = 256
"""Braces at which an object may begin; text with more of them is no reply, and each costs time."""
NO_OBJECT = "no complete JSON object at its end"

_DECODER = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[ \t\n\r]*")
_SENTENCE_END = (".", "!", "?", ":", ";", ")", "]", "}", '"', "'", "`", "*", "_")


def storable(text: str) -> str:
    """`text` as a file can hold it: lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def last_object(text: str, *, cut: bool = False) -> dict[str, Any] | None:
    """The last outermost JSON object in `text`, after its thoughts; None when no object is complete.

    Also None where the reply ends inside thoughts, or behind the object inside another one or a sentence:
    what is complete there is a draft that the model was about to correct. With `cut` only a fence may follow.
    Fences and prose need no rule of their own: decoding starts at each brace outside the object before it.
    """
    found = located_object(text, cut=cut)
    return None if found is None else found[1]


def located_object(text: str, *, cut: bool = False) -> tuple[int, dict[str, Any]] | None:
    """Where in `text` the object begins that `last_object` returns, and the object."""
    answer = text.rpartition("</think>")[-1]
    if "<think>" in answer or len(answer) > MAX_REPLY:
        return None
    found: tuple[int, dict[str, Any]] | None = None
    position, end, num_braces = answer.find("{"), 0, 0
    while position >= 0:
        num_braces += 1
        try:
            value, end = _DECODER.raw_decode(answer, position)
            found = len(text) - len(answer) + position, value
            position = answer.find("{", end)
        except ValueError:
            position = answer.find("{", position + 1)
        except RecursionError:
            return None
        if num_braces > MAX_BRACES:
            return None
    rest = answer[end:].strip().removeprefix("```").strip()
    unfinished = rest.count("{") > rest.count("}") or not rest.endswith(_SENTENCE_END)
    if rest and (cut or unfinished):
        return None
    return found


def members(text: str, start: int) -> dict[str, tuple[int, int]]:
    """Where the value of each member of the object at `start` begins and ends, of several of one name the
    last, as the decoder has it. ValueError or RecursionError where no object is that can be read."""
    spans: dict[str, tuple[int, int]] = {}
    position = _entry(text, start, "{")
    while text[position : position + 1] == '"':
        name, position = _DECODER.raw_decode(text, position)
        position = _entry(text, position, ":")
        _, end = _DECODER.raw_decode(text, position)
        spans[name] = position, end
        position = _next(text, end)
    return spans


def elements(text: str, start: int) -> list[tuple[int, int]]:
    """The same of the elements of the array at `start`."""
    spans = []
    position = _entry(text, start, "[")
    while text[position : position + 1] not in ("]", ""):
        _, end = _DECODER.raw_decode(text, position)
        spans.append((position, end))
        position = _next(text, end)
    return spans


def _entry(text: str, start: int, mark: str) -> int:
    """Where what comes after `mark` begins, before which spaces may stand. ValueError without the mark."""
    position = _behind_space(text, start)
    if not text.startswith(mark, position):
        raise ValueError(f"no {mark} at {start}")
    return _behind_space(text, position + len(mark))


def _next(text: str, end: int) -> int:
    """Where the next entry begins, or the closing bracket stands."""
    position = _behind_space(text, end)
    return _behind_space(text, position + text.startswith(",", position))


def _behind_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    assert match is not None, "it matches no space at all"
    return match.end()
