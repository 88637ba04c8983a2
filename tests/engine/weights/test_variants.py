"""Which of the weights in a library's folder are meant, and the shapes that their headers state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import ModelError
from engine.weights.variants import library_shapes, variant_of


def write(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        save_file({f"{name.split('-')[0].split('.')[-1]}{number}": torch.ones(number + 1)}, folder / name)


@pytest.mark.parametrize(
    ("names", "variant", "tensors"),
    [
        (["diffusion_pytorch_model.safetensors"], None, 1),
        (["model.safetensors", "model.fp16.safetensors"], None, 1),
        (["diffusion_pytorch_model.fp16.safetensors"], "fp16", 1),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None, 2),
        (["model.bf16-00001-of-00002.safetensors", "model.bf16-00002-of-00002.safetensors"], "bf16", 2),
        (["weights.safetensors"], None, 0),
        ([], None, 0),
    ],
)
def test_weights_without_a_variant_come_first(
    tmp_path: Path, names: list[str], variant: str | None, tensors: int
) -> None:
    write(tmp_path, *names)
    assert variant_of(tmp_path) == variant
    assert len(library_shapes(tmp_path)) == tensors


def test_of_several_variants_none_is_guessed(tmp_path: Path) -> None:
    write(tmp_path, "model.fp16.safetensors", "model.bf16.safetensors")
    with pytest.raises(ModelError, match="several variants: bf16, fp16"):
        variant_of(tmp_path)
