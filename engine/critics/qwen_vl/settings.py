"""Per-model settings of a critic: defaults for published models, overridden by the folder's retake.json.

Reads one JSON file and knows no model code. Invariant: an unknown key or a wrong type is an error, never
ignored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from engine.critics.qwen_vl.instructions import CRITIQUE_INSTRUCTION, PATCH_INSTRUCTION, PLAN_INSTRUCTION
from engine.errors import ModelError, nearest
from kernels.files import read_json

SIDECAR = "retake.json"
LARGEST = {"num_prefix_frames": 256, "num_take_frames": 256, "frame_px": 4096, "max_new_tokens": 65_536}


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticSettings:
    plan_instruction: str = PLAN_INSTRUCTION
    critique_instruction: str = CRITIQUE_INSTRUCTION
    patch_instruction: str = PATCH_INSTRUCTION  # of a critique that writes only what changes of the plan
    num_prefix_frames: int = 8
    num_take_frames: int = 16
    frame_px: int = 448  # longer side of a frame
    max_new_tokens: int = 1024


def read_settings(folder: Path, *, patches: bool = False) -> CriticSettings:
    """The settings of a model folder.

    Raises ModelError: not a JSON object, unknown key, wrong value; and for `patches` an instruction for
    critiques without one for patches. The model was trained on the former, or a user wrote it: ours in its
    place would get replies that nobody can read, or ask something else than was meant.
    """
    path = folder / SIDECAR
    if not path.is_file():
        return CriticSettings()
    try:
        data = read_json(path)
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", fix=f"repair or delete {SIDECAR}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no JSON object", fix=f"repair or delete {SIDECAR}")
    known = [field.name for field in fields(CriticSettings)]
    for key, value in data.items():
        _check(path, key, value, known)
    if patches and "critique_instruction" in data and "patch_instruction" not in data:
        raise ModelError(
            f"{path} has a critique_instruction and no patch_instruction: its critic writes full critiques",
            fix="leave --critique-form patch out; or give the instruction by which it writes patches",
        )
    return replace(CriticSettings(), **data)


def _check(path: Path, key: str, value: Any, known: list[str]) -> None:
    if key not in known:
        raise ModelError(
            f"{path}: {key!r} is not a setting of a critic{nearest(key, known)}",
            fix=f"use only: {', '.join(known)}",
        )
    default = asdict(CriticSettings())[key]
    if isinstance(default, str):
        if not isinstance(value, str) or not value.strip():
            raise ModelError(f"{path}: {key} is {value!r}, not a text", fix=f"give {key} a sentence")
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST[key]:
        raise ModelError(
            f"{path}: {key} is {value!r}, not a whole number from 1 to {LARGEST[key]}",
            fix=f"give {key} a number in that range",
        )
    if key.endswith("_frames") and value % 2:
        raise ModelError(
            f"{path}: {key} is {value}, which is odd", fix=f"set {key} to an even number of frames"
        )
