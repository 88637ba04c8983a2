"""Per-token quantization with and without GELU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from eight_bit import DEVICE, assert_same_codes, needs_triton, normal, target

from kernels.descriptors import Target
from kernels.fused import row_quant
from kernels.fused.formats import format_of, quantize_rows


@needs_triton
@pytest.mark.parametrize(("rows", "features"), [(1, 1), (1, 17), (4, 96), (3, 127), (2, 1536), (5, 560)])
@pytest.mark.parametrize("quantize", ["fp8", "int8"])
@pytest.mark.parametrize("activation", row_quant.ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernel_is_plain_torch(
    rows: int, features: int, quantize: str, activation: str | None, dtype: torch.dtype
) -> None:
    x = normal(rows, features, dtype=dtype, size=2.0)
    x8, scale = row_quant.launch(x, quantize=quantize, activation=activation)
    expected, expected_scale = row_quant.plain(x, quantize=quantize, activation=activation)
    torch.testing.assert_close(scale, expected_scale, rtol=1e-5, atol=0)
    assert_same_codes(x8, expected)


@needs_triton
def test_strided_rows_and_shapes() -> None:
    wide = torch.full((2, 5, 96), float("nan"), device=DEVICE)
    wide[:, :, :40] = normal(2, 5, 40)
    x8, scale = row_quant.launch(wide[:, :, :40], quantize="fp8")
    assert x8.shape == (2, 5, 40) and scale.shape == (2, 5, 1)
    assert_same_codes(x8, row_quant.plain(wide[:, :, :40], quantize="fp8")[0])
    column = normal(40, 3).t()
    assert_same_codes(
        *(function(column, quantize="int8")[0] for function in (row_quant.launch, row_quant.plain))
    )


def test_activation_is_the_one_of_the_library() -> None:
    x = normal(4, 64, dtype=torch.bfloat16)
    gelu = F.gelu(x.float(), approximate="tanh")
    x8, scale = row_quant.run(x, quantize="fp8", activation="gelu_tanh")
    assert_same_codes(x8, quantize_rows(gelu, format_of("fp8"))[0])
    assert ((x8.float() * scale - gelu).norm() / gelu.norm()).item() < 0.03
    with pytest.raises(AssertionError, match="relu"):
        row_quant.run(x, quantize="fp8", activation="relu")


def test_supports_says_no() -> None:
    assert "features" in str(row_quant.supports(target(), features=40000, quantize="int8"))
    assert "silu" in str(row_quant.supports(target(), features=64, quantize="int8", activation="silu"))
    assert "8.9" in str(
        row_quant.supports(Target(kind="cuda", capability=(8, 0)), features=64, quantize="fp8")
    )


@pytest.mark.gpu
@pytest.mark.parametrize("features", [1536, 8960, 13824, 14336])
@pytest.mark.parametrize("activation", row_quant.ACTIVATIONS)
def test_wan_shape(features: int, activation: str | None) -> None:
    x = normal(32760, features, dtype=torch.bfloat16, size=2.0)
    x8, scale = row_quant.run(x, quantize="fp8", activation=activation)
    expected, expected_scale = row_quant.plain(x, quantize="fp8", activation=activation)
    torch.testing.assert_close(scale, expected_scale, rtol=1e-4, atol=0)
    assert_same_codes(x8, expected)
