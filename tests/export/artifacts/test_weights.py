"""Digests follow the weights and nothing else; tensors come out of a folder one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export.artifacts.weights import FolderWeights, folder_digest, module_digest
from export.spec import ExportError


def folder(path: Path, value: float = 1.0) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    save_file({"a": torch.full((2, 3), value)}, path / "model.safetensors")
    return path


def test_folder_digest(tmp_path: Path) -> None:
    first, same, other = (
        folder(tmp_path / "1"),
        folder(tmp_path / "2"),
        folder(tmp_path / "3", 1.5),
    )
    assert folder_digest(first) == folder_digest(same) != folder_digest(other)
    (same / "config.json").write_text('{"a": 1}')
    assert folder_digest(first) != folder_digest(same)
    (first / "model.safetensors").unlink()
    with pytest.raises(ExportError, match=r"no config\.json with safetensors"):
        folder_digest(first)


def test_module_digest() -> None:
    linear = nn.Linear(3, 2)
    before = module_digest(linear)
    assert before == module_digest(linear)
    linear.weight.data[0, 0] += 1
    assert module_digest(linear) != before
    assert module_digest(linear.to(torch.bfloat16)) != before
    with pytest.raises(ExportError, match="not loaded"):
        module_digest(nn.Linear(3, 2, device="meta"))


def test_folder_weights(tmp_path: Path) -> None:
    path = folder(tmp_path / "1")
    weights = FolderWeights(path)
    assert list(weights) == ["a"] and weights["a"].shape == (2, 3)
    assert "b" not in weights and weights.get("b") is None


def test_sharded_folder(tmp_path: Path) -> None:
    path = tmp_path / "1"
    path.mkdir()
    save_file({"a": torch.ones(2)}, path / "m-1.safetensors")
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    (path / "m.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ExportError, match=r"m-2\.safetensors"):
        FolderWeights(path)
    save_file({"b": torch.zeros(3)}, path / "m-2.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in FolderWeights(path).items()} == {
        "a": (2,),
        "b": (3,),
    }


def test_damaged_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no safetensors file"):
        FolderWeights(tmp_path)
    (tmp_path / "m.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ExportError, match="not readable"):
        FolderWeights(tmp_path)
