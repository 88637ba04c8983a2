"""RMSNorm of single heads, half-split rotary embedding, static scale and rows put before."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from eight_bit import DEVICE, assert_same_codes, assert_within_twice, needs_triton, normal, target
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused import head_norm_rope
from kernels.fused.formats import FP8

EPS = 1e-6
SHAPES = [(1, 1, 16), (1, 3, 32), (5, 3, 32), (5, 8, 128), (3, 3, 20), (4, 2, 4)]


def angles(tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin as the library gives them: both halves alike."""
    phase = normal(tokens, head_dim // 2, seed=9, size=3.0).repeat(1, 2)
    return phase.cos(), phase.sin()


@needs_triton
@pytest.mark.parametrize(("tokens", "heads", "head_dim"), SHAPES)
@pytest.mark.parametrize("num_before", [0, 3])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernel_is_plain_torch(
    tokens: int, heads: int, head_dim: int, num_before: int, quantized: bool, dtype: torch.dtype
) -> None:
    x = normal(2, tokens, heads * head_dim, dtype=dtype)
    weight = normal(head_dim, seed=1).abs() + 0.1
    cos, sin = angles(tokens, head_dim)
    scale = head_norm_rope.static_scale(weight) if quantized else None
    before = None
    if num_before:
        before = normal(2, num_before, heads, head_dim, seed=5).to(FP8.dtype if quantized else dtype)
    given = {"heads": heads, "eps": EPS}
    actual = head_norm_rope.launch(x, weight, cos, sin, scale=scale, before=before, **given)
    plain = head_norm_rope.plain(x, weight, cos, sin, scale=scale, before=before, **given)
    assert actual.shape == (2, num_before + tokens, heads, head_dim) and actual.is_contiguous()
    if before is not None:
        assert torch.equal(actual[:, :num_before].float(), before.float())
    if quantized:
        assert_same_codes(actual, plain)
    else:
        assert actual.dtype == dtype
        exact = head_norm_rope.plain(x.float(), weight, cos, sin, **given)
        assert_within_twice(actual[:, num_before:], plain[:, num_before:], exact)


@needs_triton
def test_a_head_of_pairs_that_no_quarters_hold() -> None:
    x, weight, (cos, sin) = normal(1, 4, 12), normal(6, seed=1), angles(4, 6)
    actual = head_norm_rope.launch(x, weight, cos, sin, heads=2, eps=EPS)
    torch.testing.assert_close(actual, head_norm_rope.plain(x, weight, cos, sin, heads=2, eps=EPS))
    assert "multiple of 4" in str(head_norm_rope.supports(target(), heads=2, head_dim=6, quantize="fp8"))


def test_scores_do_not_see_the_hadamard_rotation() -> None:
    q, k = normal(1, 9, 64), normal(1, 9, 64, seed=2)
    weight, (cos, sin) = normal(32, seed=1).abs() + 0.1, angles(9, 32)
    given = {"heads": 2, "eps": EPS}
    scale = head_norm_rope.static_scale(weight)
    plain, low = (
        [head_norm_rope.run(x, weight, cos, sin, scale=s, **given).float() for x in (q, k)]
        for s in (None, scale)
    )
    exact, rounded = (torch.einsum("bsad,btad->bast", *pair) for pair in (plain, low))
    assert (rounded * scale**2 - exact).norm() / exact.norm() < 0.06
    assert ((low[0] * scale - plain[0]).norm() / plain[0].norm()) > 0.5, "nothing was rotated"


@needs_triton
def test_slices_of_one_gemm() -> None:
    merged = normal(2, 9, 2 * 64 + 32, dtype=torch.bfloat16)
    merged[:, :, 96:] = float("nan")  # keys and values, which must not be read
    weight, (cos, sin) = normal(32, seed=1), angles(9, 32)
    x = merged[:, :, :96]
    actual = head_norm_rope.launch(x, weight, cos, sin, heads=3, eps=EPS)
    expected = head_norm_rope.launch(x.contiguous(), weight, cos, sin, heads=3, eps=EPS)
    assert torch.equal(actual, expected) and actual.isfinite().all()


def test_it_is_what_the_library_does() -> None:
    norm = RMSNorm(16, eps=EPS).to(DEVICE)
    norm.weight.data = normal(16, seed=1)
    x, (cos, sin) = normal(1, 5, 32), angles(5, 16)
    normed = norm(x.unflatten(2, (2, 16)))
    half = torch.cat([-normed[..., 8:], normed[..., :8]], dim=-1)
    expected = normed * cos[:, None] + half * sin[:, None]
    actual = head_norm_rope.run(x, norm.weight, cos, sin, heads=2, eps=EPS)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_static_scale_cannot_saturate_and_is_reached() -> None:
    weights = normal(16, seed=1), normal(16, seed=2)
    scale = head_norm_rope.static_scale(*weights)
    largest = max(float(weight.abs().max()) for weight in weights)
    assert float(scale) == pytest.approx(largest * 4 / FP8.max, rel=1e-6)
    weight = torch.full((16,), largest, device=DEVICE)
    x = torch.zeros(1, 1, 16, device=DEVICE)
    x[0, 0, 1::4] = 3.0  # all of a head in one channel after the Hadamard rotation; RoPE by no angle
    cos, sin = torch.ones(1, 16, device=DEVICE), torch.zeros(1, 16, device=DEVICE)
    out = head_norm_rope.run(x, weight, cos, sin, heads=1, eps=0.0, scale=scale)
    assert float(out.float().abs().max()) == FP8.max


def test_refusals() -> None:
    assert "odd" in str(head_norm_rope.supports(target(), heads=2, head_dim=7))
    assert "exceed" in str(head_norm_rope.supports(target(), heads=256, head_dim=128))
    assert "int8" in str(head_norm_rope.supports(target(), heads=2, head_dim=8, quantize="int8"))
    old = Target(kind="cuda", capability=(8, 0))
    assert "8.9" in str(head_norm_rope.supports(old, heads=2, head_dim=8, quantize="fp8"))
    x, (cos, sin) = normal(1, 5, 32), angles(5, 16)
    with pytest.raises(AssertionError, match="before"):
        head_norm_rope.run(
            x, normal(16), cos, sin, heads=2, eps=EPS, before=normal(1, 2, 2, 16, dtype=torch.bfloat16)
        )
    with pytest.raises(AssertionError, match="angles"):
        head_norm_rope.run(x, normal(16), cos[:4], sin[:4], heads=2, eps=EPS)


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "num_before"), [(32, 0), (8, 300)])
@pytest.mark.parametrize("quantized", [True, False])
def test_cosmos_shape(heads: int, num_before: int, quantized: bool) -> None:
    merged = normal(1, 19110, 48 * 128, dtype=torch.bfloat16)
    x, weight, (cos, sin) = merged[:, :, : heads * 128], normal(128, seed=1), angles(19110, 128)
    scale = head_norm_rope.static_scale(weight) if quantized else None
    before = None
    if num_before:
        before = normal(1, num_before, heads, 128).to(FP8.dtype if quantized else torch.bfloat16)
    given = {"heads": heads, "eps": EPS, "scale": scale, "before": before}
    actual = head_norm_rope.run(x, weight, cos, sin, **given)
    expected = head_norm_rope.plain(x, weight, cos, sin, **given)
    if quantized:
        assert_same_codes(actual, expected)
    else:
        torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-2)
