"""LoRA files merged into the weights of a module: W += strength * alpha / rank * B A.

An engine has no adapters: weights are merged, quantized and built anew, and the digest is in the key.
Knows no model class. Invariant: every tensor of a file is used, or nothing is changed; names are not guessed.
R rank . I input features . O output features. LoRA: Hu et al. 2021 (arXiv 2106.09685).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine.errors import nearest
from export.spec import ExportError
from kernels.files import file_digest

PREFIXES = ("transformer.", "base_model.model.", "diffusion_model.")
"""What trainers put before the names of the module; one of them, or none, for a whole file."""

_PART = re.compile(
    r"^(?P<target>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up|alpha)(\.default)?(\.weight)?$"
)
_ROLE = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up", "alpha": "alpha"}

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The change of one linear: down [R, I], up [O, R]."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def factor(self) -> float:
        return self.alpha / self.down.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One file: an update for each linear by its name in the module."""

    name: str
    digest: str
    strength: float
    updates: Mapping[str, Update]


def read_lora(path: Path, strength: float = 1.0) -> Lora:
    """The updates in a safetensors file; ExportError when it is unreadable, incomplete or no plain LoRA."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path} is not a LoRA file: {error}", fix="give a safetensors file") from error
    updates = updates_of(tensors, path.name, default_alpha=_alpha(metadata, path.name))
    return Lora(name=path.name, digest=f"sha256:{file_digest(path)}", strength=strength, updates=updates)


def updates_of(
    tensors: Mapping[str, Tensor], name: str, *, default_alpha: float | None = None
) -> dict[str, Update]:
    """By name of the linear. Alpha is the file's for that linear, else `default_alpha`, else the rank."""
    parts: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        match = _PART.match(key)
        if match is None:
            strange.append(key)
            continue
        found, role = parts.setdefault(match["target"], {}), _ROLE[match["part"]]
        if role in found:
            raise ExportError(
                f"{name} has two tensors {role} for {match['target']}, one is {key}",
                fix="give a file with one adapter",
            )
        found[role] = tensor
    if strange or not parts:
        raise ExportError(
            f"{name} is no plain LoRA: {', '.join(strange[:3]) or 'it is empty'}"
            f"{f' and {len(strange) - 3} more' if len(strange) > 3 else ''}",
            fix="give a file of lora_A and lora_B (or lora_down and lora_up) pairs alone; LoHa, DoRA and "
            "changes of weights, biases or norms (.diff, .diff_b) are not merged; diffusers drops most of "
            "them silently when it converts a file",
        )
    prefix = next((p for p in PREFIXES if all(target.startswith(p) for target in parts)), "")
    return {
        target.removeprefix(prefix): _update(found, target, name, default_alpha)
        for target, found in parts.items()
    }


def merged(module: AnyModule, loras: Sequence[Lora]) -> AnyModule:
    """A copy of `module` with every update added, in the order given. `module` itself is not changed."""
    return merge_into(copy.deepcopy(module), loras)


def merge_into(module: AnyModule, loras: Sequence[Lora]) -> AnyModule:
    """As `merged`, in place, for where memory holds no two copies. Names are checked before any change."""
    linears = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    for lora in loras:
        _check(lora, linears, type(module).__name__)
    for lora in loras:
        for name, update in lora.updates.items():
            weight = linears[name].weight
            # In fp32: the product of two bf16 matrices has more digits than the sum would keep.
            change = update.up.float() @ update.down.float() * (lora.strength * update.factor)
            with torch.no_grad():
                weight.copy_((weight.float() + change.to(weight.device)).to(weight.dtype))
    return module


def lora_key(loras: Sequence[Lora]) -> tuple[tuple[str, float], ...]:
    """What of them belongs into the key of an artifact."""
    return tuple((lora.digest, lora.strength) for lora in loras)


def _check(lora: Lora, linears: Mapping[str, nn.Linear], model: str) -> None:
    unknown = sorted(set(lora.updates) - set(linears))
    if unknown:
        raise ExportError(
            f"{lora.name} changes {len(unknown)} linears that {model} does not have, among them "
            f"{unknown[0]}{nearest(unknown[0], linears)}",
            fix="give a LoRA of this model in diffusers' names; diffusers converts those of other tools, but "
            "compare the numbers of tensors before and after: it drops what it does not know (.diff)",
        )
    for name, update in lora.updates.items():
        wanted = tuple(linears[name].weight.shape)
        found = (update.up.shape[0], update.down.shape[1])
        if found != wanted:
            raise ExportError(
                f"{lora.name}: the update of {name} is {list(found)}, its weight {list(wanted)}",
                fix="give a LoRA that was trained for a model of this size",
            )


def _update(found: Mapping[str, Tensor], target: str, name: str, default_alpha: float | None) -> Update:
    down, up = found.get("down"), found.get("up")
    if down is None or up is None:
        missing = "lora_A" if down is None else "lora_B"
        raise ExportError(f"{name} has no {missing} for {target}", fix="copy or download the file again")
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise ExportError(
            f"{name}: lora_A {list(down.shape)} and lora_B {list(up.shape)} of {target} do not pair",
            fix="give a LoRA of linear layers alone",
        )
    rank = float(down.shape[0])
    alpha = float(found["alpha"]) if "alpha" in found else rank if default_alpha is None else default_alpha
    return Update(down=down, up=up, alpha=alpha)


def _alpha(metadata: Mapping[str, str], name: str) -> float | None:
    """`lora_alpha` as diffusers and PEFT write it beside the tensors; other metadata say nothing of it."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return None
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ExportError(
            f"{name}: its metadata is not JSON", fix="copy or download the file again"
        ) from error
    found = {float(v) for key, v in entries.items() if key.endswith("lora_alpha") and v is not None}
    patterns = [key for key, value in entries.items() if key.endswith("alpha_pattern") and value]
    if len(found) > 1 or patterns:
        raise ExportError(
            f"{name} has an alpha for each layer in its metadata", fix="store alpha tensors instead"
        )
    return found.pop() if found else None
