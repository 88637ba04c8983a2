"""What became of each word of a prompt, from one take to the next."""

from __future__ import annotations

import difflib

Diff = tuple[tuple[str, str], ...]
"""Runs of ("same" | "del" | "ins", words)."""


def word_diff(before: str, after: str) -> Diff:
    """What became of each word; where words were replaced, the deletion comes before the insertion."""
    old, new = before.split(), after.split()
    parts: list[tuple[str, str]] = []
    for op, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if op == "equal":
            parts.append(("same", " ".join(old[i:j])))
            continue
        if j > i:
            parts.append(("del", " ".join(old[i:j])))
        if m > k:
            parts.append(("ins", " ".join(new[k:m])))
    return tuple(parts)
