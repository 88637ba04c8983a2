"""A recipe replaces exactly what the subject lists, and streamed weights equal loaded ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_export import PROFILE, forwards, relative, scales, subject, transformer, with_digest
from torch import nn

from export.artifacts.weights import FolderWeights
from export.quantization.quantize import quantize, stream_state
from export.quantization.quantized import ActivationQuantizer, Columns, Fp8AttentionCore, QuantizedLinear
from export.quantization.scales import Scales
from export.spec import RECIPES, ExportError
from export.subjects import wan_dit

LOSS = {"fp8": 0.06, "fp8-attention": 0.08, "int8": 0.03, "int4": 0.15, "nvfp4": 0.25}
"""Largest relative error of the velocity of two random layers."""


@pytest.fixture(scope="module")
def made() -> Scales:
    return scales()


@pytest.mark.parametrize("recipe", LOSS)
def test_loss_of_a_recipe(recipe: str, made: Scales) -> None:
    inputs = forwards(1)[0]
    with torch.no_grad():
        exact = subject().module(*inputs)
        error = relative(quantize(subject(), recipe, made).module(*inputs), exact)
    assert 0 < error < LOSS[recipe], error


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_plain_recipes_change_nothing(recipe: str) -> None:
    prepared = subject()
    before = [type(module) for module in prepared.module.modules()]
    quantize(prepared, recipe)
    assert [type(module) for module in prepared.module.modules()] == before


def test_exactly_the_groups_are_replaced(made: Scales) -> None:
    module = quantize(subject(), "fp8-attention", made).module
    linears = {name for name, m in module.named_modules() if isinstance(m, QuantizedLinear)}
    assert linears == {g.linears[0] if len(g.linears) == 1 else g.shared for g in subject().groups}
    assert len(linears) == 13
    columns = {name for name, m in module.named_modules() if isinstance(m, Columns)}
    assert columns == {name for g in subject().groups if len(g.linears) > 1 for name in g.linears}
    assert len(columns) == 2 * 3 + 2 * 2
    kept = {name.split(".")[1] for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    assert kept == {"condition_embedder", "proj_out"}
    assert sum(isinstance(m, Fp8AttentionCore) for m in module.modules()) == 4


def test_one_quantizer_for_each_group(made: Scales) -> None:
    module = quantize(subject(), "int8", made).module
    quantizers = [name for name, m in module.named_modules() if isinstance(m, ActivationQuantizer)]
    assert len(quantizers) == len(subject().groups) == 13
    shared = {"shared_text", "transformer.blocks.0.attn1.processor.shared"}
    assert {f"{name}.quantizer" for name in shared} < set(quantizers)


@pytest.mark.parametrize("recipe", ["fp8", "fp8-attention", "int8"])
def test_merged_products_compute_what_the_linears_compute(
    recipe: str, made: Scales, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = quantize(subject(), recipe, made).module
    monkeypatch.setitem(RECIPES, recipe, replace(RECIPES[recipe], layout=1))
    apart = quantize(subject(), recipe, made).module
    assert sum(isinstance(m, QuantizedLinear) for m in apart.modules()) == 20
    with torch.no_grad():
        for forward in forwards():
            # a product of another width may add up in another order
            torch.testing.assert_close(merged(*forward), apart(*forward), rtol=1e-4, atol=1e-5)


def test_refusals(made: Scales) -> None:
    with pytest.raises(ExportError, match="nearest: int8"):
        quantize(subject(), "int9", made)
    with pytest.raises(ExportError, match=r"attn1\.qkv holds a Columns, not plain linears"):
        quantize(quantize(subject(), "fp8", made), "fp8", made)
    with pytest.raises(ExportError, match="no linears"):
        quantize(replace(subject(), groups=()), "fp8", made)
    odd = subject()
    group = replace(odd.groups[0], in_features=24)
    with pytest.raises(ExportError, match="24 features; nvfp4 needs multiples of 16"):
        quantize(replace(odd, groups=(group,)), "nvfp4", made)
    with pytest.raises(ExportError, match="made with checkpoint sha256:tiny"):
        quantize(with_digest(subject(), "sha256:x"), "fp8", made)


@pytest.mark.parametrize("recipe", ["fp16", *LOSS])
def test_streamed_weights_equal_loaded_ones(recipe: str, made: Scales, tmp_path: Path) -> None:
    transformer().save_pretrained(tmp_path)
    both = []
    for with_weights in (True, False):
        prepared = wan_dit.prepare(tmp_path, profiles=(PROFILE,), dtype="fp16", with_weights=with_weights)
        both.append(quantize(with_digest(prepared, "sha256:tiny"), recipe, made))
    loaded = both[0].module.state_dict()
    stream = dict(stream_state(both[1], recipe, made, FolderWeights(tmp_path), prefix="transformer."))
    assert sorted(stream) == sorted(loaded)
    for name, tensor in stream.items():
        outline = both[1].module.state_dict()[name]
        assert (tensor.shape, tensor.dtype) == (outline.shape, outline.dtype), name
        # the loaded weights were rounded to fp16 before they were quantized: at most one step apart
        torch.testing.assert_close(tensor.float(), loaded[name].float(), rtol=0.13, atol=1.01)
        same = (tensor.float() == loaded[name].float()).float().mean()
        assert same > 0.95 or tensor.dtype == torch.float16, (name, same)


def test_stream_without_a_tensor(made: Scales) -> None:
    prepared = quantize(subject(), "fp8", made)
    with pytest.raises(ExportError, match=r"lack blocks\.0\.attn1\.to_q\.weight"):
        dict(stream_state(prepared, "fp8", made, {}, prefix="transformer."))


def test_every_quantized_recipe_is_tested() -> None:
    assert {name for name, recipe in RECIPES.items() if recipe.linear != "none"} == set(LOSS)
