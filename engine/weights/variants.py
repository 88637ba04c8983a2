"""The weights in a library's folder: in shards, or a variant (`diffusion_pytorch_model.fp16.safetensors`).

Imports no torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from engine.errors import ModelError
from engine.weights.header import read_header

_NAME = re.compile(r"(?:diffusion_pytorch_)?model(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors")
"""As diffusers and transformers name them; the variant of a shard stands before its number."""


def variant_of(folder: Path) -> str | None:
    """What is to be asked of the library: None where weights without a variant are there.

    ModelError where there are several variants and none without: which is meant is not guessed.
    """
    found = set(_variants(folder).values())
    if not found or None in found:
        return None
    if len(found) > 1:
        raise ModelError(
            f"{folder} holds the weights in several variants: {', '.join(sorted(map(str, found)))}",
            fix="leave one of them in the folder",
        )
    return str(found.pop())


def library_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of each tensor that the library would read, by the headers of its files; empty where there is none."""
    return {
        name: stored.shape
        for path in library_files(folder)
        for name, stored in read_header(path).tensors.items()
    }


def library_files(folder: Path) -> list[Path]:
    """Those of the variant that is meant; all shards of one."""
    variant = variant_of(folder)
    return sorted(path for path, its in _variants(folder).items() if its == variant)


def _variants(folder: Path) -> dict[Path, str | None]:
    """The variant of each file of weights, as its name says."""
    names = {path: _NAME.fullmatch(path.name) for path in folder.glob("*.safetensors")}
    return {path: match["variant"] for path, match in names.items() if match}
