"""How some values of settings are written: a model on the hub, a part of a dataset."""

from __future__ import annotations

import re
from typing import Final

from engine.errors import ConfigError

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_name(name: str) -> bool:
    """Whether it may be a name on the Hugging Face hub, OWNER/NAME; a folder of that name comes first."""
    return _HUB_NAME.fullmatch(name) is not None


def shard_of(text: str) -> tuple[int, int]:
    """(part, parts) of "2/8", part from 1 on; ConfigError for anything else."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ConfigError(
            f"shard is {text!r}, which is not a part such as 2/8",
            fix="give K/N with K from 1 to N: the K-th of N parts of the dataset",
        )
    return int(part), int(parts)
