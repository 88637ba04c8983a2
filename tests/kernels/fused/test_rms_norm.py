"""Residual, RMSNorm and quantization against plain torch and the library's norm."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from eight_bit import DEVICE, assert_same_codes, assert_within_twice, needs_triton, normal, target

from kernels.descriptors import Target
from kernels.fused import rms_norm

EPS = 1e-6


@needs_triton
@pytest.mark.parametrize(("tokens", "channels"), [(1, 1), (3, 17), (5, 96), (2, 127), (2, 560)])
@pytest.mark.parametrize("quantize", [None, "fp8", "int8"])
@pytest.mark.parametrize("has_y", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernel_is_plain_torch(
    tokens: int, channels: int, quantize: str | None, has_y: bool, dtype: torch.dtype
) -> None:
    h, weight = normal(2, tokens, channels, dtype=dtype), normal(channels, seed=1) + 1.0
    y = normal(2, tokens, channels, seed=2, dtype=dtype) if has_y else None
    h_new, n, scale = rms_norm.launch(h, y, weight, eps=EPS, quantize=quantize)
    expected_h, expected, expected_scale = rms_norm.plain(h, y, weight, eps=EPS, quantize=quantize)
    assert torch.equal(h_new, expected_h) and (has_y or h_new is h)
    if quantize is None:
        assert n.dtype == dtype and scale is None
        assert_within_twice(n, expected, rms_norm.plain(expected_h.float(), None, weight, eps=EPS)[1])
    else:
        assert scale is not None and expected_scale is not None
        torch.testing.assert_close(scale, expected_scale, rtol=1e-5, atol=0)
        assert_same_codes(n, expected)


@needs_triton
def test_strided_rows() -> None:
    wide = torch.full((2, 5, 96), float("nan"), device=DEVICE)
    wide[:, 1:, :40] = normal(2, 4, 40)
    part, weight = wide[:, 1:, :40], normal(40, seed=1)
    actual = rms_norm.launch(part, part, weight, eps=EPS)
    expected = rms_norm.plain(part.contiguous(), part.contiguous(), weight, eps=EPS)
    assert torch.equal(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-6)


def test_the_norm_is_the_one_of_the_library() -> None:
    norm = RMSNorm(64, eps=EPS).to(DEVICE)
    norm.weight.data = normal(64, seed=1)
    h, y = normal(1, 3, 64), normal(1, 3, 64, seed=2)
    h_new, n, _ = rms_norm.run(h, y, norm.weight, eps=EPS)
    torch.testing.assert_close(n, norm(h + y), rtol=1e-5, atol=1e-6)
    assert torch.equal(h_new, h + y)


def test_refusals() -> None:
    assert "channels" in str(rms_norm.supports(target(), channels=20000))
    assert "8.9" in str(
        rms_norm.supports(Target(kind="cuda", capability=(8, 0)), channels=64, quantize="fp8")
    )
    with pytest.raises(AssertionError, match="weight"):
        rms_norm.run(normal(1, 2, 8), None, normal(7), eps=EPS)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [4096, 5120])
@pytest.mark.parametrize("quantize", [None, "fp8", "int8"])
def test_cosmos_shape(channels: int, quantize: str | None) -> None:
    h, y = (normal(1, 19110, channels, seed=seed, dtype=torch.bfloat16) for seed in (0, 1))
    weight = normal(channels, seed=2, dtype=torch.bfloat16)
    h_new, n, _ = rms_norm.run(h, y, weight, eps=EPS, quantize=quantize)
    expected_h, expected, _ = rms_norm.plain(h, y, weight, eps=EPS, quantize=quantize)
    assert torch.equal(h_new, expected_h)
    if quantize is None:
        torch.testing.assert_close(n, expected, rtol=1e-2, atol=1e-2)
    else:
        assert_same_codes(n, expected)
