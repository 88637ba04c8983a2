"""One thing that is timed, with what says that it is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kernels import reference

Check = Callable[[Any], dict[str, float]]
"""Errors of a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`make` builds, warms nothing and returns what is timed; `check` tells the errors of its first result,
    of which `relative_error` may be `allowed` at most."""

    name: str
    of: str
    """What it is part of, or what of it is timed, for who reads the rows."""
    make: Callable[[], Callable[[], Any]]
    check: Check
    allowed: float


def against(expected: Callable[[], Tensor], pick: Callable[[Any], Tensor]) -> Check:
    """A check of what `pick` takes of a result against `expected`, made when it is asked for."""

    def check(found: Any) -> dict[str, float]:
        errors = reference.compare(pick(found), expected())
        return {"relative_error": errors.relative, "cosine": errors.cosine}

    return check
