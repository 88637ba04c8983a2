"""The JSON object in the text that a critic wrote; what the object means is read elsewhere (schema.py).

Invariant: any text gives a value, never an exception, in a time that is bounded by MAX_REPLY and MAX_BRACES.
"""

from __future__ import annotations

import json
from typing import Any

MAX_REPLY = 65_536
"""Characters of a reply that are looked at: far more than any token limit here lets a model write."""
MAX_BRACES = 256
"""Braces at which an object may begin; text with more of them is no reply, and each costs time."""
NO_OBJECT = "no complete JSON object at its end"

_DECODER = json.JSONDecoder(strict=False)
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
    answer = text.rpartition("</think>")[-1]
    if "<think>" in answer or len(answer) > MAX_REPLY:
        return None
    found: dict[str, Any] | None = None
    position, end, num_braces = answer.find("{"), 0, 0
    while position >= 0:
        num_braces += 1
        try:
            found, end = _DECODER.raw_decode(answer, position)
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
