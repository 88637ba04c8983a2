"""A folder is a registry: the file `critics/qwen_vl.py` is the critic "qwen_vl".

Knows no plugin by name and keeps no table. A module is imported when it is asked for, never before; a file
whose name starts with an underscore is a helper of its neighbours, not an entry.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from engine.errors import unknown_name


def names(package: str) -> list[str]:
    """The entries of the folder of `package`, sorted. Imports the package itself, but no entry."""
    folder = importlib.import_module(package)
    return sorted(
        entry.name for entry in pkgutil.iter_modules(folder.__path__) if not entry.name.startswith("_")
    )


def load(package: str, name: str) -> ModuleType:
    """The entry `name`; raises ConfigError that lists what exists when there is none."""
    existing = names(package)
    if name not in existing:
        raise unknown_name(package.rpartition(".")[2].removesuffix("s"), name, existing)
    return importlib.import_module(f"{package}.{name}")
