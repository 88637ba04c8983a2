"""V to FP8 with one scale per batch and head."""

from __future__ import annotations

import pytest
import torch
from eight_bit import DEVICE, assert_same_codes, needs_triton, normal, target

from kernels.descriptors import Target
from kernels.fused import head_quant


@needs_triton
@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "head_dim"),
    [(1, 1, 1, 16), (2, 17, 3, 20), (1, 33, 2, 128), (2, 4129, 1, 2)],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernels_are_plain_torch(
    batch: int, tokens: int, heads: int, head_dim: int, dtype: torch.dtype
) -> None:
    v = normal(batch, tokens, heads, head_dim, dtype=dtype)
    v[-1, -1, -1, -1] = 50.0  # the last token of the last head decides its scale
    (v8, scale), (expected, expected_scale) = head_quant.launch(v), head_quant.plain(v)
    assert scale.shape == (batch, heads) and v8.shape == v.shape and v8.is_contiguous()
    torch.testing.assert_close(scale, expected_scale, rtol=1e-6, atol=0)
    assert_same_codes(v8, expected)
    assert scale[-1, -1].item() == pytest.approx(50 / 448)


@needs_triton
def test_slice_of_a_merged_product() -> None:
    merged = torch.full((2, 19, 3 * 64), float("nan"), dtype=torch.bfloat16, device=DEVICE)
    merged[:, :, 128:] = normal(2, 19, 64, dtype=torch.bfloat16)
    v = merged[:, :, 128:].unflatten(2, (2, 32))
    v8, scale = head_quant.launch(v)
    expected, expected_scale = head_quant.plain(v.contiguous())
    torch.testing.assert_close(scale, expected_scale)
    assert_same_codes(v8, expected)


@needs_triton
def test_a_head_of_zeros() -> None:
    v = normal(1, 5, 2, 16)
    v[:, :, 1] = 0
    v8, scale = head_quant.launch(v)
    assert not v8[:, :, 1].float().any() and (scale > 0).all()


def test_supports_says_no() -> None:
    assert "512" in str(head_quant.supports(target(), head_dim=1024))
    assert "8.9" in str(head_quant.supports(Target(kind="cuda", capability=(8, 6)), head_dim=128))


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [12, 40])
def test_wan_shape(heads: int) -> None:
    merged = normal(1, 32760, 3 * heads * 128, dtype=torch.bfloat16)
    v = merged[:, :, 2 * heads * 128 :].unflatten(2, (heads, 128))
    (v8, scale), (expected, expected_scale) = head_quant.run(v), head_quant.plain(v)
    torch.testing.assert_close(scale, expected_scale, rtol=1e-6, atol=0)
    assert_same_codes(v8, expected)
