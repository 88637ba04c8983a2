"""Measuring 8-bit errors beside the running module, and choosing formats and ranges from them."""

from __future__ import annotations

import pytest
import tiny_denoise as tiny
import torch
from diffusers import WanTransformer3DModel
from tiny_quant import transformer, velocity

from engine.generators.wan.recipes import WAN, read_attention
from engine.quant.calibration import Budget, LayerError, Meter, choose, compare
from engine.quant.recipes import resolve
from engine.quant.surgery import linear_of, quantize_linears

OUTLIER = "blocks.1.ffn.net.2"


def error(layer: str, format: str, timestep: float, relative: float, *, kind: str = "linear") -> LayerError:
    cosine = 1 - relative**2 / 2
    return LayerError(
        layer=layer, kind=kind, format=format, timestep=timestep, cosine=cosine, relative_error=relative
    )


def made(errors: list[LayerError], budget: Budget | None = None) -> list[tuple[str, str, float, float]]:
    policy = choose(errors, budget or Budget(), source="x", producer="a test")
    return [(e.layer, e.format, e.low, e.high) for e in policy.entries]


def measured(model: WanTransformer3DModel, *timesteps: float) -> list[LayerError]:
    attentions = [f"blocks.{index}.attn1" for index in range(len(model.blocks))]
    meter = Meter(model, resolve(WAN, model).quantized, attentions, read=read_attention)
    with meter:
        for timestep in timesteps:
            meter.timestep = timestep
            velocity(model)
    return meter.errors()


def test_every_layer_format_and_timestep_is_measured_and_the_hooks_are_gone() -> None:
    model = transformer()
    before = velocity(model)
    errors = measured(model, 900.0, 100.0)
    found = {(e.kind, e.layer, e.format, e.timestep) for e in errors}
    assert len(found) == len(errors) == (16 * 3 + 4 * 3) * 2
    assert [e.timestep for e in errors[:2]] == [900.0, 100.0]
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    assert torch.equal(velocity(model), before), "the module is unmodified"
    fp8 = [e for e in errors if e.kind == "linear" and e.format in ("fp8", "fp8_full_accum")]
    assert all(0.01 < e.relative_error < 0.05 and e.cosine > 0.998 for e in fp8)


def test_calls_at_one_timestep_add_up() -> None:
    layer = torch.nn.Linear(16, 16).requires_grad_(False)
    module = torch.nn.ModuleDict({"a": layer})
    inputs = [tiny.random(8, 16, seed=1), 100 * tiny.random(8, 16, seed=2)]
    meter = Meter(module, ["a"], formats=["int8"])
    with meter:
        for x in inputs:
            layer(x)
    alone = Meter(module, ["a"], formats=["int8"])
    with alone:
        layer(torch.cat(inputs))
    (added,), (whole,) = meter.errors(), alone.errors()
    assert added.relative_error == pytest.approx(whole.relative_error, rel=1e-6)
    assert added.cosine == pytest.approx(whole.cosine, rel=1e-9)


def test_a_planted_outlier_is_measured_and_stays_bf16() -> None:
    model = transformer()
    calm = {(e.layer, e.format): e for e in measured(model, 500.0) if e.kind == "linear"}
    outlier = linear_of(model, OUTLIER)
    outlier.weight[:, 0] *= 1e4  # one input channel decides every output channel's scale
    model.blocks[1].ffn.net[0].proj.weight[0] = 0
    model.blocks[1].ffn.net[0].proj.bias[0] = 0  # and gelu(0) = 0 is all that it gets
    errors = measured(model, 500.0)
    wild = {(e.layer, e.format): e for e in errors if e.kind == "linear"}
    assert wild[OUTLIER, "int8"].relative_error > 0.5 > 10 * calm[OUTLIER, "int8"].relative_error
    policy = choose(errors, Budget(), source="x", producer="a test")
    others = policy.other_linears(model, WAN, "int8")
    assert others == {OUTLIER: "bf16"}
    report = quantize_linears(model, WAN, "int8", expect=15, policy=others)
    assert OUTLIER in report.kept and len(report.formats) == 15


def ones_beside_an_outlier(layer: torch.nn.Linear) -> torch.Tensor:
    """Inputs [3, K] whose first channel is 448 times the others, and so are its weights."""
    torch.nn.init.ones_(layer.weight)
    layer.weight[:, 0] = 448
    x = torch.ones(3, layer.in_features)
    x[:, 0] = 448
    return x


def test_what_fast_accumulation_loses_is_measured_and_the_layer_sums_in_full() -> None:
    """All values are exact in E4M3, so the sums alone are wrong: 4095 ones are lost beside 448 * 448."""
    layer = torch.nn.Linear(4096, 16, bias=False).requires_grad_(False)
    x = ones_beside_an_outlier(layer)
    meter = Meter(torch.nn.ModuleDict({"a": layer}), ["a"])
    with meter:
        layer(x)
    errors = meter.errors()
    found = {e.format: e.relative_error for e in errors}
    assert found["fp8"] == pytest.approx(4095 / (448**2 + 4095), rel=1e-4)
    assert found["fp8_full_accum"] == pytest.approx(127 / (448**2 + 4095), rel=1e-4)
    assert all(Budget().admits(e) for e in errors if e.format != "int8"), "one budget for both"
    admitted = {format for _, format, _, _ in made(errors)}
    assert "fp8" not in admitted and "fp8_full_accum" in admitted
    assert {format for _, format, _, _ in made([e for e in errors if e.format == "fp8"])} == {"fp8"}


def test_a_calm_layer_keeps_fast_accumulation() -> None:
    layer = torch.nn.Linear(1024, 16).requires_grad_(False)
    meter = Meter(torch.nn.ModuleDict({"a": layer}), ["a"], formats=["fp8", "fp8_full_accum"])
    with meter:
        layer(tiny.random(8, 1024, seed=1))
    assert [format for _, format, _, _ in made(meter.errors())] == ["fp8", "fp8_full_accum"]


def test_the_worst_timestep_decides_for_a_linear_layer() -> None:
    errors = [error("a", "fp8", 900, 0.03), error("a", "fp8", 100, 0.5), error("b", "fp8", 900, 0.03)]
    errors += [error("a", "int8", 900, 0.01), error("a", "int8", 100, 0.02)]
    assert made(errors) == [("b", "fp8", 0.0, 1000.0), ("a", "int8", 0.0, 1000.0)]
    assert made(errors, Budget(linear_relative_error=0.001)) == []


def test_attention_is_admitted_by_ranges_of_timesteps() -> None:
    """Between two measured timesteps the nearer decides, and the outer ones reach to both ends."""
    relative = {1000.0: 0.2, 900.0: 0.05, 600.0: 0.05, 300.0: 0.09, 100.0: 0.01}
    errors = [error("blocks.1.attn1", "fp8", t, r, kind="attention") for t, r in relative.items()]
    assert made(errors) == [("blocks.1.attn1", "fp8", 450.0, 950.0), ("blocks.1.attn1", "fp8", 0.0, 200.0)]
    assert made(errors[1:3]) == [("blocks.1.attn1", "fp8", 0.0, 1000.0)]
    assert made(errors[:1]) == []


def test_cosine_alone_can_refuse() -> None:
    turned = LayerError(layer="a", kind="linear", format="fp8", timestep=0, cosine=0.9, relative_error=0.01)
    assert not Budget().admits(turned)
    attention = LayerError(
        layer="a", kind="attention", format="fp8", timestep=0, cosine=0.997, relative_error=0.07
    )
    assert Budget().admits(attention)


def test_compare() -> None:
    x = torch.tensor([3.0, 4.0])
    assert compare(x, x) == (pytest.approx(1.0), 0.0)
    assert compare(x * 1.1, x) == (pytest.approx(1.0), pytest.approx(0.1, rel=1e-4))
    assert compare(torch.zeros(2), torch.zeros(2)) == (1.0, 0.0)
    assert compare(x, torch.zeros(2)) == (0.0, float("inf"))
    assert compare(torch.zeros(2), x) == (0.0, 1.0)


def test_nothing_to_read_attention_with_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="how to read"):
        Meter(transformer(), [], ["blocks.0.attn1"])
