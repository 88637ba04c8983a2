"""What a check of this machine says, and the two questions that many checks ask. Knows no check."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`fix` is empty when there is nothing to mend."""

    name: str
    ok: bool
    detail: str
    required: bool = False
    fix: str = ""


def installed(name: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def existing(place: Path) -> Path:
    """The place, or what there is of the way to it."""
    return next(path for path in (place, *place.parents) if path.exists())


def cannot_write(place: Path) -> str | None:
    """Why no file can be written there, or code in it not be run; tried where the place would be made."""
    try:
        with tempfile.TemporaryFile(dir=existing(place)):
            pass
        if os.statvfs(existing(place)).f_flag & os.ST_NOEXEC:
            return "its disk is mounted noexec, so that compiled code in it does not load"
    except OSError as error:
        return error.strerror or str(error)
    return None
