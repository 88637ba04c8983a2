"""A part of a model, as a weight file turns out to be; a family says which: `identify` in its `files.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`kind` is the folder of a pipeline that it belongs into, `config` what its config.json would say.

    not_run: why it is none of a model that can be run here; None where it is one.
    """

    kind: str
    title: str
    config: Mapping[str, Any]
    not_run: str | None = None
