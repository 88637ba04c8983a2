"""Q/DQ arithmetic against formulas written out."""

from __future__ import annotations

import pytest
import torch
from tiny_export import relative
from torch.nn import functional

from export.quantization.quantized import (
    FP8,
    AttentionCore,
    Fp8AttentionCore,
    dequantize_linear,
    fp4_decode,
    fp4_quantize,
    largest_block,
    quantize_linear,
)


def test_fp8_saturates_and_int8_clamps() -> None:
    x, scale = torch.tensor([1e9, -1e9, 1.0, 0.0]), torch.tensor(0.5)
    eight = quantize_linear(x, scale, torch.zeros((), dtype=FP8))
    assert dequantize_linear(eight, scale).tolist() == [224.0, -224.0, 1.0, 0.0]
    whole = quantize_linear(x, scale, torch.zeros((), dtype=torch.int8))
    assert whole.tolist() == [127, -128, 2, 0]


def test_rounding_is_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5])
    assert quantize_linear(x, torch.tensor(1.0), torch.zeros((), dtype=torch.int8)).tolist() == [0, 2, 2, 0]


@pytest.mark.parametrize(("features", "block"), [(1536, 128), (8960, 128), (320, 64), (48, 16), (7, 1)])
def test_largest_block_that_divides(features: int, block: int) -> None:
    assert largest_block(features) == block


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
