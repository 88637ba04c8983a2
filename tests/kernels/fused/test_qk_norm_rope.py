"""RMSNorm, rotary embedding and the static FP8 scale of q and k."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from eight_bit import DEVICE, assert_same_codes, assert_within_twice, needs_triton, normal, target
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused import qk_norm_rope
from kernels.fused.formats import dequantize, hadamard

EPS = 1e-6
SHAPES = [(1, 1, 16), (1, 3, 32), (5, 3, 32), (5, 12, 128), (3, 3, 24), (3, 3, 20), (4, 2, 6)]
NO_HADAMARD = (20, 6)
"""Head sizes whose quarters hold no whole pairs."""


def angles(tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin as the library gives them: every value twice."""
    phase = normal(1, tokens, 1, head_dim // 2, seed=9, size=3.0).repeat_interleave(2, dim=-1)
    return phase.cos(), phase.sin()


@needs_triton
@pytest.mark.parametrize(("tokens", "heads", "head_dim"), SHAPES)
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernel_is_plain_torch(
    tokens: int, heads: int, head_dim: int, rotated: bool, quantized: bool, dtype: torch.dtype
) -> None:
    if quantized and head_dim in NO_HADAMARD:
        assert "multiple of 8" in str(
            qk_norm_rope.supports(target(), heads=heads, head_dim=head_dim, quantize="fp8")
        )
        return
    x = normal(2, tokens, heads * head_dim, dtype=dtype)
    weight = normal(heads * head_dim, seed=1).abs() + 0.1
    cos, sin = angles(tokens, head_dim) if rotated else (None, None)
    scale = qk_norm_rope.static_scale(weight, heads) if quantized else None
    actual = qk_norm_rope.launch(x, weight, cos, sin, heads=heads, eps=EPS, scale=scale)
    plain = qk_norm_rope.plain(x, weight, cos, sin, heads=heads, eps=EPS, scale=scale)
    assert actual.shape == (2, tokens, heads, head_dim) and actual.is_contiguous()
    if quantized:
        assert_same_codes(actual, plain)
    else:
        assert actual.dtype == dtype
        exact = qk_norm_rope.plain(x.float(), weight, cos, sin, heads=heads, eps=EPS)
        assert_within_twice(actual, plain, exact)


@needs_triton
def test_q_and_k_as_slices_of_one_gemm() -> None:
    merged = normal(2, 9, 3 * 64, dtype=torch.bfloat16)
    merged[:, :, 128:] = float("nan")  # V, which must not be read
    weights = [normal(64, seed=seed).abs() for seed in (1, 2)]
    cos, sin = angles(9, 32)
    for x, weight in zip(merged.split(64, dim=-1)[:2], weights, strict=True):
        actual = qk_norm_rope.launch(x, weight, cos, sin, heads=2, eps=EPS)
        expected = qk_norm_rope.launch(x.contiguous(), weight, cos, sin, heads=2, eps=EPS)
        assert torch.equal(actual, expected) and actual.isfinite().all()


@torch.no_grad()
def test_rotation_is_that_of_the_library() -> None:
    """Against WanRotaryPosEmbed's tables and RMSNorm of torch, with the formula of its processor."""
    rope = WanRotaryPosEmbed(24, (1, 2, 2), 32).to(DEVICE)
    cos, sin = rope(torch.empty(1, 4, 2, 4, 6, device=DEVICE))
    x = normal(2, cos.shape[1], 2 * 24)
    norm = torch.nn.RMSNorm(48, eps=EPS).to(DEVICE)
    norm.weight.uniform_(0.5, 2.0)
    rotated = norm(x).unflatten(2, (2, 24))
    a, b = rotated[..., 0::2], rotated[..., 1::2]
    c, s = cos[..., 0::2], sin[..., 1::2]
    expected = torch.empty_like(rotated)
    expected[..., 0::2], expected[..., 1::2] = a * c - b * s, a * s + b * c
    actual = qk_norm_rope.run(x, norm.weight, cos, sin, heads=2, eps=EPS)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("heads", [1, 4])
def test_static_scale_is_never_exceeded_and_nearly_reached(heads: int) -> None:
    """The worst case: all of a row in one pair, rotated by 45 degrees onto one axis."""
    weight = normal(64, seed=1).abs() + 0.1
    scale = qk_norm_rope.static_scale(weight, heads)
    assert scale.shape == (heads,) and scale.dtype == torch.float32
    worst = weight.reshape(heads, -1).argmax(dim=1) + torch.arange(heads, device=DEVICE) * (64 // heads)
    x = torch.zeros(1, heads, 64, device=DEVICE)
    x[0, torch.arange(heads), worst] = 1000.0
    out = qk_norm_rope.plain(x, weight, heads=heads, eps=EPS)
    reached = out[0].diagonal(dim1=0, dim2=1).abs().amax(dim=0) / (448 * scale)
    torch.testing.assert_close(reached, torch.ones_like(reached), rtol=1e-5, atol=0)
    angle = torch.full((1, heads, 1, 64 // heads), math.pi / 4, device=DEVICE)
    pairs = torch.zeros(1, heads, 64, device=DEVICE) + normal(1, heads, 64, seed=3) * 1e3
    rotated = qk_norm_rope.plain(pairs, weight, angle.cos(), angle.sin(), heads=heads, eps=EPS)
    assert (rotated.abs() <= 448 * scale[:, None] * (1 + 1e-5)).all()


def test_typical_values_keep_the_precision_of_the_format() -> None:
    x, weight = normal(1, 64, 1536), torch.ones(1536, device=DEVICE)
    scale = qk_norm_rope.static_scale(weight, 12)
    exact = hadamard(qk_norm_rope.plain(x, weight, heads=12, eps=EPS))
    x8 = qk_norm_rope.plain(x, weight, heads=12, eps=EPS, scale=scale)
    error = (x8.float() * scale[:, None] - exact).norm() / exact.norm()
    assert error.item() < 0.03


def test_scores_do_not_see_the_hadamard_rotation() -> None:
    """What attention takes: products of a query and a key over the channels of a head."""
    weight, (cos, sin) = normal(64, seed=1).abs() + 0.1, angles(5, 32)
    settings = {"heads": 2, "eps": EPS}
    scale = qk_norm_rope.static_scale(weight, 2)
    q, k = (normal(1, 5, 64, seed=seed) for seed in (2, 3))
    exact = [qk_norm_rope.plain(x, weight, cos, sin, **settings) for x in (q, k)]
    eight_bit = [qk_norm_rope.plain(x, weight, cos, sin, scale=scale, **settings) for x in (q, k)]
    wide = [dequantize(x8, scale[:, None]) for x8 in eight_bit]
    expected, actual = (torch.einsum("bnad,bmad->banm", *pair) for pair in (exact, wide))
    assert (actual - expected).norm() / expected.norm() < 0.06
    assert (wide[0] - exact[0]).norm() / exact[0].norm() > 0.5  # the channels themselves are others


def test_supports_says_no() -> None:
    assert "odd" in str(qk_norm_rope.supports(target(), heads=2, head_dim=15))
    assert "exceed" in str(qk_norm_rope.supports(target(), heads=200, head_dim=128))
    assert "int8" in str(qk_norm_rope.supports(target(), heads=2, head_dim=16, quantize="int8"))
    assert qk_norm_rope.supports(Target(kind="cpu", capability=None), heads=2, head_dim=16) is not None
    assert qk_norm_rope.supports(Target(kind="cuda", capability=(9, 0)), heads=40, head_dim=128) is None


@needs_triton
def test_wrong_tables_are_refused() -> None:
    cos, sin = angles(4, 16)
    with pytest.raises(AssertionError, match="angles"):
        qk_norm_rope.launch(normal(1, 5, 32), normal(32), cos, sin, heads=2, eps=EPS)
    with pytest.raises(AssertionError, match="together"):
        qk_norm_rope.run(normal(1, 4, 32), normal(32), cos, heads=2, eps=EPS)


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "quantized"), [(12, True), (12, False), (40, True), (24, True)])
def test_wan_shape(heads: int, quantized: bool) -> None:
    channels = heads * 128
    x = normal(1, 32760, 3 * channels, dtype=torch.bfloat16)[:, :, :channels]
    weight = normal(channels, seed=1).abs() + 0.1
    cos, sin = angles(32760, 128)
    scale = qk_norm_rope.static_scale(weight, heads) if quantized else None
    actual = qk_norm_rope.run(x, weight, cos, sin, heads=heads, eps=EPS, scale=scale)
    plain = qk_norm_rope.plain(x, weight, cos, sin, heads=heads, eps=EPS, scale=scale)
    if quantized:
        assert_same_codes(actual, plain)
    else:
        exact = qk_norm_rope.plain(x.float(), weight, cos, sin, heads=heads, eps=EPS)
        assert_within_twice(actual, plain, exact)
