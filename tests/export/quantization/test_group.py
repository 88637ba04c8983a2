"""What each kind of linear may lose, and that a merged product is its linears side by side."""

from __future__ import annotations

import pytest
import torch
from tiny_export import relative
from torch import Tensor, nn

from export.quantization import group as group_module
from export.quantization.group import quantize_group, smoothing_of
from export.quantization.quantized import Int4Linear, QuantizedLinear

KINDS = {"fp8": 0.05, "int8": 0.02, "int4": 0.12, "nvfp4": 0.2}
"""Largest relative error of a linear on normal inputs."""


def group(kind: str, weights: tuple[Tensor, ...], x: Tensor) -> list[nn.Module]:
    """quantizer (or identity) and linears."""
    made = quantize_group(
        kind,
        weights,
        (None,) * len(weights),
        x.abs().flatten(0, -2).amax(dim=0),
        dtype=torch.float32,
        shared=len(weights) > 1,
    )
    return [made.front or nn.Identity(), *made.linears]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_features", [64, 48])
def test_error_of_a_linear(kind: str, in_features: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(40, in_features), torch.randn(2, 30, in_features)
    _, linear = group(kind, (weight,), x)
    error = relative(linear(x), x @ weight.t())
    assert 0 < error <= KINDS[kind], error


@pytest.mark.parametrize("kind", KINDS)
def test_bias_and_zero_weights(kind: str) -> None:
    weight, bias = torch.zeros(8, 16), torch.arange(8.0)
    made = quantize_group(kind, (weight,), (bias,), torch.zeros(16), dtype=torch.float32, shared=False)
    assert torch.equal(made.linears[0](torch.randn(3, 16)), bias.expand(3, 8))


@pytest.mark.parametrize("kind", ["fp8", "int8", "nvfp4"])
def test_a_group_shares_one_quantizer(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 30, 64)
    x[..., 3] *= 40  # an outlier feature
    weights = tuple(torch.randn(32, 64) for _ in range(3))
    quantizer, *linears = group(kind, weights, x)
    read = quantizer(x)
    assert all(isinstance(linear.quantizer, nn.Identity) for linear in linears)
    for weight, linear in zip(weights, linears, strict=True):
        assert relative(linear(read), x @ weight.t()) <= KINDS[kind]


def test_smoothing_tames_an_outlier_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(50, 64), torch.randn(32, 64)
    x[:, 3] *= 100
    smooth = relative(group("int8", (weight,), x)[1](x), x @ weight.t())
    monkeypatch.setattr(group_module, "smoothing_of", lambda input_amax, weight_amax: torch.ones(64))
    plain = relative(group("int8", (weight,), x)[1](x), x @ weight.t())
    assert smooth < plain / 2


def test_smoothing_formula_and_dead_features() -> None:
    factor = smoothing_of(torch.tensor([4.0, 0.0, 1.0]), torch.tensor([9.0, 2.0, 0.0]))
    assert factor.tolist() == [1.5, 1.0, 1.0]


def test_int4_stays_in_four_bits() -> None:
    (linear,) = quantize_group(
        "int4", (torch.randn(8, 256),), (None,), None, dtype=torch.float16, shared=False
    ).linears
    assert isinstance(linear, Int4Linear) and linear.block == 128
    assert linear.weight_int4.abs().amax() == 7 and linear.weight_scale.shape == (2, 8)


WIDTHS = (40, 24, 8)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_a_merged_product_is_its_linears_side_by_side(kind: str, device: str) -> None:
    """Weights of very different sizes: one scale for the product would round the small ones away."""
    torch.manual_seed(0)
    weights = tuple(torch.randn(width, 64) * 30.0**-n for n, width in enumerate(WIDTHS))
    biases = (torch.randn(40), None, torch.randn(8))
    x, amax = torch.randn(2, 30, 64), torch.rand(64) + 3
    apart, one = (
        quantize_group(
            kind,
            tuple(weight.to(device) for weight in weights),
            tuple(None if bias is None else bias.to(device) for bias in biases),
            amax.to(device),
            dtype=torch.float32,
            shared=True,
            merged=merged,
        )
        for merged in (False, True)
    )
    product, quantizer = one.front, apart.front
    assert isinstance(product, QuantizedLinear) and quantizer is not None
    assert product.weight.is_contiguous() and product.weight.shape == (64, sum(WIDTHS))
    assert not any(linear.state_dict() for linear in one.linears)
    if device == "meta":
        return
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(product.quantizer.get_buffer(name), tensor), name
    for linear, part, bias in zip(apart.linears, one.linears, biases, strict=True):
        alone = product.columns(part.start, part.stop)
        for name in ("weight", "weight_scale"):
            assert torch.equal(alone.get_buffer(name).float(), linear.get_buffer(name).float()), name
        assert torch.equal(alone.bias, torch.zeros(24) if bias is None else bias)
        wanted = linear(quantizer(x))
        for found in (part(product(x)), alone(x)):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_no_bias_stays_none() -> None:
    weights, none = (torch.ones(2, 4),) * 2, (None, None)
    made = quantize_group(
        "fp8", weights, none, torch.ones(4), dtype=torch.float32, shared=True, merged=True
    ).front
    assert isinstance(made, QuantizedLinear) and made.bias is None


@pytest.mark.parametrize("kind", ["int4", "nvfp4"])
def test_four_bits_are_not_merged(kind: str) -> None:
    """NVFP4 has one scale for all weights of a linear, so that a merged one would be another."""
    weights, none = (torch.ones(2, 16),) * 2, (None, None)
    with pytest.raises(AssertionError, match=f"2 linears of {kind} in one product"):
        quantize_group(kind, weights, none, torch.ones(16), dtype=torch.float32, shared=True, merged=True)


def test_groups_need_a_shared_quantizer() -> None:
    with pytest.raises(AssertionError, match="2 linears"):
        quantize_group(
            "fp8",
            (torch.ones(1, 1),) * 2,
            (None, None),
            torch.ones(1),
            dtype=torch.float32,
            shared=False,
        )
