"""The tensors that the packages of one artifact run with: one file beside the code, however many profiles.

A package with its weights inside is unpacked to disk and linked before its first call; this file is read
straight to the device. Invariant: a tensor comes back with the strides it was traced with, which compiled
code relies on. Knows no compiler.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE_NAME: Final = "weights.safetensors"
_STRIDES: Final = "strides"

Weights = Mapping[str, Tensor]


def add(kept: dict[str, Tensor], profile: str, tensors: Weights) -> None:
    """Take up what the package of a profile needs; what another profile has under that name is kept once.

    Tracing gives the constants it meets names like _tensor_constant0, which mean others in each profile.
    """
    for name, tensor in tensors.items():
        if name not in kept:
            kept[name] = tensor
        elif not _same(kept[name], tensor):
            kept[_own_key(profile, name)] = tensor


def save(tensors: Weights, path: Path) -> None:
    """Any dtype and strides; a tensor that is a part of another one is written on its own."""
    strides = {name: tensor.stride() for name, tensor in tensors.items() if not tensor.is_contiguous()}
    dense = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        for name, tensor in tensors.items()
    }
    save_file(dense, path, metadata={_STRIDES: json.dumps(strides)})


def load(path: Path, device: torch.device) -> dict[str, Tensor]:
    """All of the file, on the device."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        strides = json.loads(file.metadata()[_STRIDES])
        # a tensor of a mapped file on the CPU is aligned to 8 bytes: compiled code may want more
        return {
            name: _placed(file.get_tensor(name), strides.get(name))
            for name in file.keys()  # noqa: SIM118, not a dict
        }


def of_profile(profile: str, names: Iterable[str], loaded: Weights) -> dict[str, Tensor]:
    """By the names that the package of this profile has for them."""
    own = {name: _own_key(profile, name) for name in names}
    return {name: loaded[key if key in loaded else name] for name, key in own.items()}


def _own_key(profile: str, name: str) -> str:
    return f"{profile}:{name}"


def _same(one: Tensor, other: Tensor) -> bool:
    """To the bit, in any dtype."""
    if (one.shape, one.dtype, one.stride()) != (other.shape, other.dtype, other.stride()):
        return False
    flat = (tensor.detach().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(*flat)


def _placed(tensor: Tensor, stride: list[int] | None) -> Tensor:
    if stride is None:
        return tensor.clone() if tensor.device.type == "cpu" else tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
