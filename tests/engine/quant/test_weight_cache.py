"""Quantized weights on disk: bit-exact round trips, and every file that must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_quant import transformer, velocity

from engine.errors import ModelError
from engine.generators.wan.recipes import WAN
from engine.quant import weight_cache
from engine.quant.linears import QuantizedLinear
from engine.quant.surgery import linear_of, plan

NAME = "blocks.1.attn1.to_q"


@pytest.mark.parametrize("format", ["fp8", "int8"])
def test_a_second_load_reads_the_file_and_is_bit_exact(tmp_path: Path, format: str) -> None:
    first, second = transformer(), transformer()
    report, path = weight_cache.quantize_or_load(first, WAN, format, expect=16, folder=tmp_path / "new")
    stamp = path.stat().st_mtime_ns
    again, same = weight_cache.quantize_or_load(second, WAN, format, expect=16, folder=tmp_path / "new")
    assert same == path and path.stat().st_mtime_ns == stamp and again == report
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        other = states[1][key]
        assert value.dtype == other.dtype and torch.equal(value.view(torch.uint8), other.view(torch.uint8)), (
            key
        )
    assert torch.equal(velocity(first), velocity(second))


def test_loading_quantizes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight_cache.quantize_or_load(transformer(), WAN, "fp8", expect=16, folder=tmp_path)
    monkeypatch.setattr(QuantizedLinear, "from_linear", lambda *_: pytest.fail("quantized again"))
    weight_cache.quantize_or_load(transformer(), WAN, "fp8", expect=16, folder=tmp_path)


def test_other_weights_formats_and_policies_have_other_files(tmp_path: Path) -> None:
    model = transformer()
    formats = plan(model, WAN, "fp8")
    digest = weight_cache.weights_digest(model, formats)
    assert digest == weight_cache.weights_digest(transformer(), reversed(list(formats)))
    linear_of(model, NAME).weight[0, 0] += 1e-6
    other = weight_cache.weights_digest(model, formats)
    assert other != digest and other != weight_cache.weights_digest(model.bfloat16(), formats)
    policies = (formats, plan(transformer(), WAN, "int8"), {**formats, NAME: "int8"})
    assert len({weight_cache.path_of(tmp_path, digest, chosen) for chosen in policies}) == 3


def write(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    layer = QuantizedLinear.from_linear(linear_of(transformer(), NAME), "fp8")
    path = tmp_path / "layers.safetensors"
    weight_cache.save({NAME: layer}, path, digest="a" * 64)
    return path, {NAME: "fp8"}


def test_the_file_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    path, formats = write(tmp_path)
    assert weight_cache.load(path, digest="a" * 64, formats=formats)[NAME].format == "fp8"
    with pytest.raises(ModelError, match=r"made from weights a{16}, the model has b{16}") as caught:
        weight_cache.load(path, digest="b" * 64, formats=formats)
    assert "delete the file" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be read"),
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: save_file(load_file(path), path), "schema None"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage, message: str) -> None:
    path, formats = write(tmp_path)
    damage(path)
    with pytest.raises(ModelError, match=message):
        weight_cache.load(path, digest="a" * 64, formats=formats)


def test_a_file_that_lacks_a_tensor_or_has_other_layers_is_refused(tmp_path: Path) -> None:
    path, formats = write(tmp_path)
    with pytest.raises(ModelError, match="another choice"):
        weight_cache.load(path, digest="a" * 64, formats={**formats, "blocks.2.attn1.to_q": "fp8"})
    tensors = load_file(path)
    del tensors[f"{NAME}.scale"]
    metadata = {"schema": "1", "source": "a" * 64, "formats": json.dumps(formats)}
    metadata["dtypes"] = json.dumps({NAME: "fp32"})
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ModelError, match="lacks"):
        weight_cache.load(path, digest="a" * 64, formats=formats)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(weight_cache, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []
