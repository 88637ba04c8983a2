"""Replacing linear layers in a real module of the library, and every way in which it refuses."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from eight_bit import errors
from tiny_quant import transformer, velocity
from torch import nn

from engine.generators.wan.recipes import WAN
from engine.quant.linears import QuantizedLinear
from engine.quant.recipes import SurgeryError, resolve
from engine.quant.surgery import install, linear_of, plan, quantize_linears


@pytest.mark.parametrize("format", ["fp8", "int8"])
def test_the_inner_layers_become_8_bit_and_the_answer_stays(format: str) -> None:
    model = transformer()
    before = velocity(model)
    source = sum(linear_of(model, name).weight.numel() for name in resolve(WAN, model).quantized)
    report = quantize_linears(model, WAN, format, expect=16)
    replaced = {name for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}
    assert replaced == set(report.formats) and len(replaced) == 16
    assert set(report.formats.values()) == {format}
    assert not replaced.intersection(report.kept) and "proj_out" in report.kept
    assert report.bytes_before - report.bytes_after > 2.8 * source  # 4 bytes became 1, and scales were added
    error, cosine = errors(velocity(model), before)
    assert 0 < error < 0.1 and cosine > 0.995


def test_a_layer_is_gone_before_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else both forms of all layers would be in memory at once: Cosmos3-Super's are 87 GiB."""
    model, make = transformer(), QuantizedLinear.from_linear
    weights = [weakref.ref(linear_of(model, name).weight) for name in resolve(WAN, model).quantized]
    alive: list[int] = []

    def counting(linear: nn.Linear, format: str) -> Any:
        alive.append(sum(weight() is not None for weight in weights))
        return make(linear, format)

    monkeypatch.setattr(QuantizedLinear, "from_linear", counting)
    quantize_linears(model, WAN, "int8", expect=16)
    assert alive == [*range(16, 0, -1)]


def test_another_count_is_an_error_and_changes_nothing() -> None:
    model = transformer()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SurgeryError, match=r"16 layers would be quantized, 15 were expected: .*blocks\.1\."):
        quantize_linears(model, WAN, "fp8", expect=15)
    assert model.state_dict().keys() == before.keys()


@pytest.mark.parametrize("expect", [0, 16])
def test_nothing_to_do_is_an_error(expect: int) -> None:
    with pytest.raises(SurgeryError, match="nothing to quantize"):
        quantize_linears(transformer(num_layers=2), WAN, "fp8", expect=expect)


def test_a_second_surgery_is_an_error() -> None:
    model = transformer()
    quantize_linears(model, WAN, "fp8", expect=16)
    with pytest.raises(SurgeryError):
        quantize_linears(model, WAN, "fp8", expect=16)
    with pytest.raises(SurgeryError, match="is a QuantizedLinear, not an nn"):
        linear_of(model, "blocks.1.attn1.to_q")
    with pytest.raises(SurgeryError, match="is missing"):
        linear_of(model, "blocks.9.attn1.to_q")


def test_policy_gives_single_layers_another_format() -> None:
    model = transformer()
    policy = {"blocks.1.ffn.net.2": "bf16", "blocks.2.attn1.to_q": "int8"}
    report = quantize_linears(model, WAN, "fp8", expect=15, policy=policy)
    assert report.formats["blocks.2.attn1.to_q"] == "int8" and "blocks.1.ffn.net.2" in report.kept
    assert list(report.formats.values()).count("fp8") == 14


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"proj_out": "fp8"}, "proj_out"),
        ({"blocks.1.ffn.net.2": "fp4"}, "fp4"),
        ({"nothing": "bf16"}, "nothing"),
    ],
)
def test_a_policy_for_other_layers_or_formats_is_an_error(policy: dict[str, str], message: str) -> None:
    with pytest.raises(SurgeryError, match=message):
        plan(transformer(), WAN, "fp8", policy=policy)


def test_a_layer_the_kernel_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.quant import surgery

    monkeypatch.setattr(surgery.KERNELS["fp8"], "supports", lambda problem: f"{problem.in_features} is odd")
    with pytest.raises(SurgeryError, match=r"blocks\.1\.attn1\.to_q: 64 is odd"):
        quantize_linears(transformer(), WAN, "fp8", expect=16)


def test_a_layer_of_another_shape_is_not_installed() -> None:
    model = transformer()
    wrong = QuantizedLinear.from_linear(nn.Linear(64, 32), "fp8")
    with pytest.raises(SurgeryError, match=r"\(32, 64\).*\(64, 64\)"):
        install(model, "blocks.1.attn1.to_q", wrong)
    without = QuantizedLinear.from_linear(nn.Linear(64, 64, bias=False), "fp8")
    with pytest.raises(SurgeryError, match="bias: False"):
        install(model, "blocks.1.attn1.to_q", without)


def test_a_model_without_weights_can_be_counted() -> None:
    model = transformer(device=torch.device("meta"))
    report = quantize_linears(model, WAN, "fp8", expect=16)
    assert report.bytes_after < report.bytes_before / 3
