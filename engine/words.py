"""Words around numbers, and commands to type, as messages, reports and pages tell them.

Knows no other module.
"""

from __future__ import annotations

import shlex


def counted(num: int, one: str, several: str | None = None) -> str:
    """The number and its noun: "1 take", "2 takes".

    several: where it is not `one` and an s, as with a verb: counted(num, "take is", "takes are").
    """
    return f"{num} {one if num == 1 else several or _plural(one)}"


def command_line(*words: object) -> str:
    """A command to paste into a shell, quoted where it needs that: retake resume 'runs/first try'."""
    return shlex.join(map(str, words))


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"
