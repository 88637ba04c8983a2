"""Q/DQ arithmetic against formulas written out, and what each kind of linear may lose."""

from __future__ import annotations

import pytest
import torch
from tiny_export import relative
from torch import Tensor, nn
from torch.nn import functional

from export.quantization import quantized
from export.quantization.quantized import (
    FP8,
    AttentionCore,
    Fp8AttentionCore,
    Int4Linear,
    dequantize_linear,
    fp4_decode,
    fp4_quantize,
    largest_block,
    quantize_group,
    quantize_linear,
    smoothing_of,
)

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
    return [made.quantizer or nn.Identity(), *made.linears]


def test_fp8_saturates_and_int8_clamps() -> None:
    x, scale = torch.tensor([1e9, -1e9, 1.0, 0.0]), torch.tensor(0.5)
    eight = quantize_linear(x, scale, torch.zeros((), dtype=FP8))
    assert dequantize_linear(eight, scale).tolist() == [224.0, -224.0, 1.0, 0.0]
    whole = quantize_linear(x, scale, torch.zeros((), dtype=torch.int8))
    assert whole.tolist() == [127, -128, 2, 0]


def test_rounding_is_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5])
    assert quantize_linear(x, torch.tensor(1.0), torch.zeros((), dtype=torch.int8)).tolist() == [0, 2, 2, 0]


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
    monkeypatch.setattr(quantized, "smoothing_of", lambda input_amax, weight_amax: torch.ones(64))
    plain = relative(group("int8", (weight,), x)[1](x), x @ weight.t())
    assert smooth < plain / 2


def test_smoothing_formula_and_dead_features() -> None:
    factor = smoothing_of(torch.tensor([4.0, 0.0, 1.0]), torch.tensor([9.0, 2.0, 0.0]))
    assert factor.tolist() == [1.5, 1.0, 1.0]


@pytest.mark.parametrize(("features", "block"), [(1536, 128), (8960, 128), (320, 64), (48, 16), (7, 1)])
def test_largest_block_that_divides(features: int, block: int) -> None:
    assert largest_block(features) == block


def test_int4_stays_in_four_bits() -> None:
    (linear,) = quantize_group(
        "int4", (torch.randn(8, 256),), (None,), None, dtype=torch.float16, shared=False
    ).linears
    assert isinstance(linear, Int4Linear) and linear.block == 128
    assert linear.weight_int4.abs().amax() == 7 and linear.weight_scale.shape == (2, 8)


def test_fp4_values_are_fixed_points() -> None:
    """What E2M1 can represent comes back unchanged, and ties go to the even code."""
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    x = torch.cat([values, -values])
    codes, block_scale = fp4_quantize(x, torch.tensor(1.0), axis=-1)
    assert block_scale.float().tolist() == [1.0]
    assert torch.equal(fp4_decode(codes, torch.float32), x)
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0] * 2)
    codes, _ = fp4_quantize(ties, torch.tensor(1.0), axis=-1)
    assert fp4_decode(codes, torch.float32)[:8].tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]


def test_fp4_blocks_have_their_own_scale() -> None:
    x = torch.cat([torch.ones(16), torch.full((16,), 448.0)])
    scale = x.amax() / (448 * 6)
    codes, block_scale = fp4_quantize(x, scale, axis=0)
    assert block_scale[1].float() == 448.0 and 0.9 < float(block_scale[0].float()) < 1.1
    exact = fp4_decode(codes, torch.float32) * (block_scale.float() * scale).repeat_interleave(16)
    torch.testing.assert_close(exact, x, rtol=0.07, atol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_fp8_attention(masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 16) for length in (9, 7, 7))
    mask = torch.zeros(2, 1, 9, 7)
    mask[..., 5:] = -30000.0
    core = Fp8AttentionCore(*(tensor.abs().amax() for tensor in (q, k, v)), head_dim=16)
    given = mask if masked else None
    exact = functional.scaled_dot_product_attention(q, k, v, attn_mask=given)
    assert torch.equal(AttentionCore(16)(q, k, v, given), exact)
    error = relative(core(q, k, v, given), exact)
    assert 0 < error < 0.08
    if masked:
        other_k, other_v = k.clone(), v.clone()
        other_k[:, :, 5:], other_v[:, :, 5:] = 1.0, 1.0
        assert torch.equal(core(q, k, v, given), core(q, other_k, other_v, given))


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
