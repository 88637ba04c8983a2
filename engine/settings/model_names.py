"""Models that the user has added under a name of his own: `retake models add`. Knows no layout of a model."""

from __future__ import annotations

import re
from pathlib import Path

from engine.settings.environment import models_folder

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def is_name(text: str) -> bool:
    """Whether a model may be called that: a single name, which is no path."""
    return _NAME.fullmatch(text) is not None


def added_model(name: str) -> Path | None:
    """Its folder, or None where no model was added under that name."""
    folder = models_folder() / name
    return folder if is_name(name) and folder.is_dir() else None


def added_models() -> list[Path]:
    """The folders of all, by name; those in the making and left behind are none."""
    places = models_folder().glob("*") if models_folder().is_dir() else ()
    return sorted(folder for folder in places if is_name(folder.name) and folder.is_dir())
