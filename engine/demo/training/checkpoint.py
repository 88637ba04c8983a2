"""The state of an unfinished training in files below 16 MiB, so that a stage can end and another go on.

Weights and their averages in fp16. The optimizer's moments are not kept: their memory (betas 0.9 and 0.95) is
shorter than the warm-up with which each stage begins. The record is written last and names its parts by
digest, so that a killed stage leaves the state before it; parts that no record names are removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from engine.demo.training.schedule import Average
from engine.errors import ModelError
from kernels.files import whole_file

PART_BYTES: Final = 15 << 20
RECORD: Final = "checkpoint.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a training is, over all its stages; `settings` must be the same in each."""

    seconds: float
    steps: int
    stages: int
    next_seed: int  # of the first scene that no stage has been given
    settings: dict[str, str]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a checkpoint holds: modules by name, and the average of each."""

    modules: Mapping[str, nn.Module]
    averages: Mapping[str, Average]

    def tensors(self) -> dict[str, Tensor]:
        """By name, on their device and in their dtype: "MODULE.PARAMETER" and "average/MODULE.PARAMETER"."""
        found = {}
        for name, module in self.modules.items():
            for (key, parameter), shadow in zip(
                module.named_parameters(), self.averages[name].shadow, strict=True
            ):
                found[f"{name}.{key}"] = parameter.detach()
                found[f"average/{name}.{key}"] = shadow
        return found


def save(folder: Path, trained: Trained, progress: Progress) -> None:
    """Write the state to `folder`. ModelError for weights that are not finite in fp16."""
    from safetensors.torch import save as pack

    tensors = {key: value.half().contiguous().cpu() for key, value in trained.tensors().items()}
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise ModelError(
            f"{len(bad)} weights are not finite, the first {bad[0]}",
            fix="go on from the stage before, with a lower learning rate",
        )
    data = pack(tensors)
    parts = []
    for start in range(0, len(data), PART_BYTES):
        part = data[start : start + PART_BYTES]
        digest = hashlib.sha256(part).hexdigest()
        parts.append(digest)
        with whole_file(folder / _part_name(digest)) as path:
            path.write_bytes(part)
    record = {"progress": asdict(progress), "parts": parts}
    with whole_file(folder / RECORD) as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    kept = {_part_name(digest) for digest in parts}
    for path in folder.glob("*.part"):
        if path.name not in kept:
            path.unlink()


def read_progress(folder: Path) -> Progress | None:
    """How far the training in `folder` is; None where none has begun. ModelError for a damaged record."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8"))["progress"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}", fix="copy the checkpoint again") from error


def load(folder: Path, trained: Trained) -> None:
    """Read weights and averages into `trained`. ModelError for missing or damaged parts or other modules."""
    from safetensors.torch import load as unpack

    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    data = b""
    for digest in record["parts"]:
        path = folder / _part_name(digest)
        part = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(part).hexdigest() != digest:
            problem = "is damaged" if path.is_file() else "does not exist"
            raise ModelError(f"{path} {problem}", fix="copy all parts of the checkpoint again")
        data += part
    found, wanted = unpack(data), trained.tensors()
    differing = sorted(found.keys() ^ wanted.keys())
    differing += [key for key in found.keys() & wanted.keys() if found[key].shape != wanted[key].shape]
    if differing:
        raise ModelError(
            f"{folder} holds other modules: {len(differing)} weights differ, the first {differing[0]}",
            fix="go on with the options that the training began with, or choose an empty folder",
        )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(found[key])
    for average in trained.averages.values():
        average.count = record["progress"]["steps"]  # or it would forget all in ten steps


def require_settings(progress: Progress | None, settings: dict[str, str]) -> None:
    """ModelError when a training would go on with other settings than it began with."""
    if progress is None:
        return
    before = progress.settings
    changed = [key for key in sorted(before.keys() | settings.keys()) if before.get(key) != settings.get(key)]
    if changed:
        key = changed[0]
        raise ModelError(
            f"the training began with {key} {before.get(key)!r}, not {settings.get(key)!r}",
            fix="give the same options again, or an empty --state folder to begin anew",
        )


def _part_name(digest: str) -> str:
    return f"{digest[:16]}.part"
