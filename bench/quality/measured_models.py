"""Which weights a measurement was of, so that its page can tell when others are bundled by now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.runs.manifest import collect, weight_digests


def manifest_of(models: Mapping[str, Path]) -> dict[str, Any]:
    """This machine and code, and by role the sha256 of each file of weights below these folders.

    A published measurement names no folder of the machine that made it.
    """
    digests = {role: weight_digests(folder) for role, folder in models.items()}
    return collect({}, {}, seeds={}, argv=[]) | {"models": digests}
