"""What a check of this machine says, and the questions that many checks ask. Knows no check."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BROKEN: Final = (ImportError, OSError, RuntimeError, AttributeError)
"""What a package raises whose parts are missing, or are of other versions, as it is imported or asked."""


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


def answered(
    name: str,
    check: Callable[[], Check],
    *,
    required: bool = False,
    fix: str = "mend first what does not import",
) -> Check:
    """Its answer; where it rests on a package that does not import, that. A doctor has no other patients."""
    try:
        return check()
    except BROKEN as error:
        return Check(name=name, ok=False, detail=f"cannot be told: {error}", required=required, fix=fix)


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
