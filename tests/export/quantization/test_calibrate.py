"""Magnitudes are those of the real forwards; the error table finds a layer that is made bad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_export import forwards, scales, subject

from export.quantization.calibrate import OUTPUT, Difference, errors, observe, plot, worst
from export.quantization.quantize import quantize
from export.spec import RECIPES, ExportError

FFN = "transformer.blocks.1.ffn.net.2"
QKV = "transformer.blocks.0.attn1.to_"


def test_magnitudes_are_the_largest_of_all_forwards() -> None:
    prepared = subject()
    seen: list[torch.Tensor] = []
    layer = prepared.module.get_submodule(FFN)
    with torch.no_grad():
        handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        for forward in forwards():
            prepared.module(*forward)
        handle.remove()
    found = observe(prepared, iter(forwards()))
    assert found.num_forwards == 3 and sorted(found.input_amax) == sorted(g.name for g in prepared.groups)
    torch.testing.assert_close(found.input_amax[FFN], torch.cat(seen).abs().flatten(0, 1).amax(dim=0))
    assert sorted(found.attention_amax) == sorted(prepared.attentions)
    assert all(amax.shape == (3,) and bool((amax > 0).all()) for amax in found.attention_amax.values())


def test_observing_leaves_no_hook() -> None:
    prepared = subject(num_layers=1)
    observe(prepared, forwards(1))
    assert not any(module._forward_pre_hooks for module in prepared.module.modules())


def test_nothing_and_infinities_are_refused() -> None:
    with pytest.raises(ExportError, match="no forwards to calibrate"):
        observe(subject(num_layers=1), [])
    latents, *rest = forwards(1)[0]
    with pytest.raises(ExportError, match="not finite in 1 forward"):
        observe(subject(num_layers=1), [(latents * float("inf"), *rest)])
    pair = subject(num_layers=1), subject(num_layers=1)
    with pytest.raises(ExportError, match="no forwards to compare"):
        errors(*pair, "fp8", [])


def test_error_table_by_layer_and_timestep(tmp_path: Path) -> None:
    made = scales()
    table = errors(subject(), quantize(subject("fp16"), "fp8-attention", made), "fp8-attention", forwards())
    assert table.timesteps == [1000.0, 700.0, 400.0]
    linears = {name for group in subject().groups for name in group.linears}
    assert set(table.layers) == {*linears, *subject().attentions, OUTPUT}
    assert all(0 < cell.relative < 0.1 and cell.cosine > 0.99 for cell in table.cells.values())
    table.write(tmp_path / "errors.json")
    rows = json.loads((tmp_path / "errors.json").read_text())
    assert len(rows["layers"]) == len(table.layers)
    assert rows["layers"][0]["relative"] == [
        table.cells[rows["layers"][0]["name"], t].relative for t in table.timesteps
    ]
    for suffix in ("png", "svg"):
        plot(table, tmp_path / f"errors.{suffix}")
        assert (tmp_path / f"errors.{suffix}").stat().st_size > 1000


def test_a_bad_scale_shows_in_its_layer_alone() -> None:
    made = scales()
    small = {**made.input_amax, FFN: made.input_amax[FFN] / 50}  # clips most values
    table = errors(subject(), quantize(subject(), "fp8", replace(made, input_amax=small)), "fp8", forwards(1))
    (name, error), (_, second) = worst(table, 2).items()
    assert name == FFN and error > 0.2 > 0.06 > second


def test_linears_of_a_merged_product_have_their_own_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    merged = quantize(subject(num_layers=1), "int8", scales(num_layers=1))
    monkeypatch.setitem(RECIPES, "int8", replace(RECIPES["int8"], layout=1))
    apart = quantize(subject(num_layers=1), "int8", scales(num_layers=1))
    one, other = (errors(subject(num_layers=1), made, "int8", forwards(1)) for made in (merged, apart))
    assert one.layers == other.layers and {f"{QKV}{name}" for name in "qkv"} < set(one.layers)
    for cell, found in one.cells.items():
        assert found.relative == pytest.approx(other.cells[cell].relative, rel=1e-3), cell
    assert len({one.cells[f"{QKV}{name}", 1000.0].relative for name in "qkv"}) == 3


def test_difference_is_exact() -> None:
    sums = Difference()
    sums.add(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0]))
    sums.add(torch.tensor([0.0, 4.0]), torch.tensor([0.0, 4.0]))
    assert sums.relative == pytest.approx(4 / 5)
    assert sums.cosine == pytest.approx(25 / (5 * 41**0.5))
