"""A folder becomes a complete module in the asked dtype, or an error that names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from tiny_export import transformer

from export.spec import ExportError
from export.subjects._loading import component_folder, load_module


def test_component_or_pipeline(tmp_path: Path) -> None:
    transformer().save_pretrained(tmp_path / "transformer")
    assert component_folder(tmp_path, "transformer") == tmp_path / "transformer"
    assert component_folder(tmp_path / "transformer", "transformer") == tmp_path / "transformer"
    with pytest.raises(ExportError, match="vae"):
        component_folder(tmp_path, "vae")


def test_outline_has_the_dtypes_of_the_loaded_module(tmp_path: Path) -> None:
    transformer().save_pretrained(tmp_path)
    loaded, outline = (
        load_module(tmp_path, WanTransformer3DModel, "bf16", with_weights=with_weights)
        for with_weights in (True, False)
    )
    kinds = [{name: p.dtype for name, p in module.named_parameters()} for module in (loaded, outline)]
    assert kinds[0] == kinds[1] and set(kinds[0].values()) == {torch.float32, torch.bfloat16}


def test_incomplete_folders(tmp_path: Path) -> None:
    transformer().save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    del tensors["proj_out.bias"]
    save_file(tensors, path)
    with pytest.raises(ExportError, match=r"missing_keys \['proj_out\.bias'\]"):
        load_module(tmp_path, WanTransformer3DModel, "fp32")
    path.write_bytes(b"no")
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_module(tmp_path, WanTransformer3DModel, "fp32")
    with pytest.raises(ExportError, match="dtype 'fp8'"):
        load_module(tmp_path, WanTransformer3DModel, "fp8")
