"""silu(gate) * up, quantized or not, against plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from eight_bit import assert_same_codes, assert_within_twice, needs_triton, normal, target

from kernels.descriptors import Target
from kernels.fused import swiglu


@needs_triton
@pytest.mark.parametrize(("rows", "features"), [(1, 1), (1, 17), (4, 96), (3, 127), (5, 560)])
@pytest.mark.parametrize("quantize", [None, "fp8", "int8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernel_is_plain_torch(rows: int, features: int, quantize: str | None, dtype: torch.dtype) -> None:
    x = normal(2, rows, 2 * features, dtype=dtype, size=2.0)
    out, scale = swiglu.launch(x, quantize=quantize)
    expected, expected_scale = swiglu.plain(x, quantize=quantize)
    assert out.shape == (2, rows, features)
    if quantize is None:
        assert out.dtype == dtype and scale is None
        assert_within_twice(out, expected, swiglu.plain(x.float())[0])
    else:
        assert scale is not None and expected_scale is not None
        torch.testing.assert_close(scale, expected_scale, rtol=1e-5, atol=0)
        assert_same_codes(out, expected)


def test_the_gate_is_the_first_half() -> None:
    x = normal(3, 8)
    torch.testing.assert_close(swiglu.run(x)[0], F.silu(x[:, :4]) * x[:, 4:], rtol=1e-6, atol=1e-6)


def test_refusals() -> None:
    assert "features" in str(swiglu.supports(target(), features=40000))
    old = Target(kind="cuda", capability=(8, 0))
    assert "8.9" in str(swiglu.supports(old, features=64, quantize="fp8"))
    with pytest.raises(AssertionError, match="two halves"):
        swiglu.run(normal(2, 7))


@pytest.mark.gpu
@pytest.mark.parametrize("quantize", [None, "fp8", "int8"])
def test_cosmos_shape(quantize: str | None) -> None:
    x = normal(4096, 2 * 12288, dtype=torch.bfloat16, size=2.0)
    out, _ = swiglu.run(x, quantize=quantize)
    expected, _ = swiglu.plain(x, quantize=quantize)
    if quantize is None:
        torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)
    else:
        assert_same_codes(out, expected)
