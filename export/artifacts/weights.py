"""Where weights come from: digests that name them, and tensors read one at a time from safetensors files.

Knows no module class. Invariant: a folder's digest depends on its config and the bytes of its weight files
alone, so that it is the same for every dtype and device the weights are loaded with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from export.artifacts.documents import read_document
from export.spec import ExportError
from kernels.files import file_digest

_COMPLETE = "copy or download the whole folder again"


def folder_digest(folder: Path) -> str:
    """sha256 over config.json and every safetensors file of a component folder."""
    files = sorted(folder.glob("*.safetensors"))
    config = folder / "config.json"
    if not files or not config.is_file():
        raise ExportError(f"{folder} holds no config.json with safetensors files", fix=_COMPLETE)
    digest = hashlib.sha256()
    for path in (config, *files):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def module_digest(module: nn.Module) -> str:
    """sha256 over names, shapes, dtypes and values of a module's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.is_meta:
            problem = f"the weights of {type(module).__name__} are not loaded ({name} is on meta)"
            raise ExportError(problem, fix="give the digest of the folder that they will come from")
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # through uint8: numpy knows neither bfloat16 nor float8
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


class FolderWeights(Mapping[str, Tensor]):
    """The tensors of a component folder by name, each read from its file when asked for."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        index = sorted(folder.glob("*.safetensors.index.json"))
        if index:
            names = read_document(index[0], {"weight_map": dict}, fix=_COMPLETE)["weight_map"]
            self._files = {name: folder / file for name, file in names.items()}
        else:
            for path in sorted(folder.glob("*.safetensors")):
                with _opened(path) as file:
                    self._files.update(dict.fromkeys(file.keys(), path))
        missing = sorted({str(path) for path in self._files.values() if not path.is_file()})
        if missing or not self._files:
            problem = f"{folder} lacks weights: {', '.join(missing) or 'no safetensors file'}"
            raise ExportError(problem, fix=_COMPLETE)

    def __getitem__(self, name: str) -> Tensor:
        with _opened(self._files[name]) as file:
            tensor = file.get_tensor(name)
        assert isinstance(tensor, Tensor)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path} is not readable: {error}", fix=_COMPLETE) from error
