"""What a LoRA's matrices are multiplied by where no tensor says so: its metadata, or PEFT's configuration.

Diffusers writes its configuration into the metadata of the file, PEFT as adapter_config.json beside
adapter_model.safetensors. Knows no tensor. Invariant: what would scale a layer otherwise is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.errors import ModelError
from kernels.files import parse_json

METADATA: Final = "lora_adapter_metadata"
"""Key of diffusers' text in the metadata of a file."""
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alpha:
    """Of layers without one of their own; None: the rank. rank_stabilised: over the root of the rank, not the
    rank (Kalajdzievski 2023, arXiv 2312.03732)."""

    value: float | None = None
    rank_stabilised: bool = False

    def of_rank(self, rank: int) -> float:
        """What over the rank is the factor of a layer."""
        value = float(rank) if self.value is None else self.value
        return value * math.sqrt(rank) if self.rank_stabilised else value


def config_beside(path: Path) -> Path | None:
    """PEFT's configuration of a LoRA file; None where it has none."""
    config = path.with_name(PEFT_CONFIG)
    return config if path.name == PEFT_FILE and config.is_file() else None


def read_alpha(path: Path, metadata: Mapping[str, str]) -> Alpha | None:
    """None where nothing says it. ModelError for what cannot be read, or says more than one alpha."""
    if METADATA in metadata:
        where, text = f"the metadata of {path.name}", metadata[METADATA].encode()
    elif (config := config_beside(path)) is not None:
        where, text = str(config), config.read_bytes()
    else:
        return None
    try:
        return _alpha(where, parse_json(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{where} cannot be read: {error}", fix="copy or download the file again") from error


def _alpha(where: str, entries: Mapping[str, Any]) -> Alpha:
    """Names may have a part before them: transformer.lora_alpha."""

    def stated(name: str) -> list[Any]:
        values = (value for key, value in entries.items() if key.rpartition(".")[2] == name)
        return [value for value in values if value not in (None, False, {})]

    found = {float(value) for value in stated("lora_alpha")}
    if len(found) > 1 or stated("alpha_pattern"):
        raise ModelError(f"{where} has an alpha for each layer", fix="store alpha tensors instead")
    if stated("use_dora"):
        raise ModelError(f"{where} says that it is a DoRA", fix="give a plain LoRA; DoRA is not merged")
    if not all(map(math.isfinite, found)):
        raise ValueError(f"lora_alpha is {found.pop()}")
    return Alpha(value=next(iter(found), None), rank_stabilised=bool(stated("use_rslora")))
