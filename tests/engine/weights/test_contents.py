"""Which tensors of a file are weights and which belong to one; ComfyUI's FP8 scales are used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign_files import save, scaled_fp8
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import ModelError
from engine.weights.contents import Contents, contents
from engine.weights.header import read_header
from engine.weights.tensors import Weights

TENSORS = {
    "blocks.0.q.weight": torch.linspace(-3, 5, 64).view(4, 16),
    "blocks.0.q.bias": torch.arange(4.0),
    "norm.weight": torch.ones(4),
}


def is_layer(name: str) -> bool:
    return name == "blocks.0.q.weight"


def read(path: Path) -> Contents:
    return contents(read_header(path))


@pytest.mark.parametrize("new", [False, True], ids=["scaled_fp8", "comfy_quant"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_fp8_weights_are_multiplied_by_their_scales(tmp_path: Path, new: bool, prefix: str) -> None:
    quantized = scaled_fp8(TENSORS, is_layer, new=new)
    found = read(save(tmp_path / "a.safetensors", quantized, prefix=prefix))
    assert found.weights.keys() == TENSORS.keys() and found.prefix == prefix
    assert found.quantization == "fp8_scaled" and found.num_input_scales == 1
    with Weights(found, torch.device("cpu")) as weights:
        values = {name: weights.read(name, torch.float32) for name in TENSORS}
    scale = 5 / 448
    exact = quantized["blocks.0.q.weight"].float() * scale
    assert torch.equal(values["blocks.0.q.weight"], exact)
    assert (
        float((exact - TENSORS["blocks.0.q.weight"]).abs().max()) < 5 / 16
    )  # half a step of E4M3 at the end
    assert torch.equal(values["norm.weight"], TENSORS["norm.weight"])


def test_one_scale_for_each_row(tmp_path: Path) -> None:
    quantized = scaled_fp8(TENSORS, is_layer)
    quantized["blocks.0.q.scale_weight"] = torch.arange(1.0, 5.0)
    found = read(save(tmp_path / "a.safetensors", quantized))
    with Weights(found, torch.device("cpu")) as weights:
        values = weights.read("blocks.0.q.weight", torch.float32)
    assert torch.equal(values[3], 4 * quantized["blocks.0.q.weight"].float()[3])


def test_fp8_without_scales_is_what_it_says(tmp_path: Path) -> None:
    tensors = {**TENSORS, "blocks.0.q.weight": TENSORS["blocks.0.q.weight"].to(torch.float8_e4m3fn)}
    found = read(save(tmp_path / "a.safetensors", tensors))
    assert found.quantization == "fp8"
    with Weights(found, torch.device("cpu")) as weights:
        values = weights.read("blocks.0.q.weight", torch.bfloat16)
    assert torch.equal(values, tensors["blocks.0.q.weight"].to(torch.bfloat16))


Q = "blocks.0.q"
ONE = torch.ones(())


def mark(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({f"{Q}.scale_weight": None}, f"lacks the scales of 1 of its 8-bit weights: {Q}.weight"),
        ({"other.scale_weight": ONE}, "scales of no weight.*other.scale_weight"),
        ({"other.scale_input": ONE}, "scales of no weight.*other.scale_input"),
        ({f"{Q}.scale_weight": None, "scaled_fp8": None}, "lacks the scales of 1 of its 8-bit weights"),
        ({f"{Q}.weight_scale_2": ONE}, "of another format"),
        ({f"{Q}.scale_weight": torch.ones(2, 2)}, r"F32 \[2, 2\] for a weight \[4, 16"),
        ({"norm.weight": torch.ones(4, dtype=torch.int8)}, r"types that are not read \(I8\)"),
        ({"x.comfy_quant": mark('{"format": "nvfp4"}')}, r"formats that are not read: nvfp4 \(x\)"),
        ({"x.comfy_quant": mark("?")}, "mark of its quantization"),
    ],
)
def test_what_belongs_to_nothing_is_refused_by_name(
    tmp_path: Path, changed: dict[str, Tensor | None], told: str
) -> None:
    merged: dict[str, Tensor | None] = {**scaled_fp8(TENSORS, is_layer), **changed}
    tensors = {name: tensor for name, tensor in merged.items() if tensor is not None}
    with pytest.raises(ModelError, match=told):
        read(save(tmp_path / "a.safetensors", tensors))


def test_formats_that_the_metadata_states_are_known(tmp_path: Path) -> None:
    text = '{"layers": {"blocks.0.q": {"format": "int8_tensorwise"}}}'
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"_quantization_metadata": text})
    with pytest.raises(ModelError, match="int8_tensorwise"):
        read(tmp_path / "a.safetensors")


def test_a_checkpoint_of_several_parts_is_refused(tmp_path: Path) -> None:
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in TENSORS.items()}
    tensors["vae.encoder.conv1.weight"] = torch.ones(2)
    with pytest.raises(ModelError, match="other parts beside the diffusion model: vae"):
        read(save(tmp_path / "a.safetensors", tensors))
