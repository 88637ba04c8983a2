"""The files that may stand beside a model: `retake.json` with its settings is read, an adapter is refused.

Knows no family: each declares its settings as fields, and says which of its parts could have an adapter.
Invariant: what is found beside a model is used or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from engine.errors import ConfigError, ModelError
from engine.settings.toml import from_table
from kernels.files import read_json

SIDECAR: Final = "retake.json"
CRITIC: Final = "critic"
"""What a critic may set in the file of a folder that is a generator too."""
ADAPTERS: Final = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
)
"""As peft and diffusers name them."""

T = TypeVar("T")


def read_sidecar(
    folder: Path, cls: type[T], defaults: Mapping[str, Any] | None = None, *, section: str = ""
) -> T:
    """The settings `cls` of a model folder, by default `defaults` and then those of the class.

    section: the object of that name in the file instead of the file itself, where one folder holds models of
    two kinds; who reads the file itself leaves out `CRITIC`.

    Raises ModelError: not a JSON object, an unknown key, a value of another type or out of range.
    """
    path, given = folder / SIDECAR, dict(defaults or {})
    if not path.is_file():
        return cls(**given)
    try:
        table = read_json(path)
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", fix=f"repair or delete {SIDECAR}") from error
    if isinstance(table, dict):
        table = table.get(section, {}) if section else {key: table[key] for key in table if key != CRITIC}
    if not isinstance(table, dict):
        raise ModelError(f"{path} holds no JSON object", fix=f"repair or delete {SIDECAR}")
    try:
        made: T = from_table(cls, given | table)
    except ConfigError as error:
        raise ModelError(f"{path}: {error.problem}", fix=error.fix) from error
    return made


def refuse_adapters(folder: Path, parts: Sequence[str] = (), *, fix: str) -> None:
    """ModelError for an adapter in the folder or in one of `parts`: the libraries read the base model alone.

    fix: how one has a run with it.
    """
    places = (folder, *(folder / part for part in parts))
    found = [place / name for place in places for name in ADAPTERS if (place / name).is_file()]
    if found:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise ModelError(
            f"{folder} holds an adapter ({names}), which is not loaded",
            fix=fix,
        )
