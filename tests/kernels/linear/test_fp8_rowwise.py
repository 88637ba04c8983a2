"""FP8 linear against fp32 of the same weights, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from eight_bit import DEVICE, errors, normal

from kernels.descriptors import LinearProblem, Target
from kernels.fused import row_quant
from kernels.linear import fp8_rowwise


def problem(
    capability: tuple[int, int] | None, in_features: int = 64, out_features: int = 32
) -> LinearProblem:
    target = Target(kind="cpu" if capability is None else "cuda", capability=capability)
    return LinearProblem(
        rows=7, in_features=in_features, out_features=out_features, dtype="bf16", target=target
    )


def test_supports() -> None:
    assert fp8_rowwise.supports(problem(None, 7, 5)) is None
    assert fp8_rowwise.supports(problem((9, 0))) is None
    assert "8.9" in str(fp8_rowwise.supports(problem((8, 6))))
    assert "24 input" in str(fp8_rowwise.supports(problem((9, 0), in_features=24)))
    assert "40 output" in str(fp8_rowwise.supports(problem((9, 0), out_features=40)))


@pytest.mark.parametrize(
    ("rows", "in_features", "out_features"), [(1, 64, 48), (17, 1536, 64), (130, 240, 96)]
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_error_is_within_the_stated_bounds(
    rows: int, in_features: int, out_features: int, has_bias: bool
) -> None:
    x, weight = normal(rows, in_features), normal(out_features, in_features, seed=1, size=in_features**-0.5)
    bias = normal(out_features, seed=2) if has_bias else None
    x8, x_scale = row_quant.plain(x, quantize="fp8")
    w8, w_scale = fp8_rowwise.quantize_weight(weight)
    assert w8.dtype == torch.float8_e4m3fn and w_scale.shape == (out_features,)
    out = fp8_rowwise.plain(x8, x_scale, w8, w_scale, bias, out_dtype=torch.float32)
    error, cosine = errors(out, F.linear(x, weight, bias))
    assert 0.005 < error <= fp8_rowwise.MAX_RELATIVE_ERROR
    assert cosine >= fp8_rowwise.MIN_COSINE


def test_leading_dims_and_dtype() -> None:
    x8, x_scale = row_quant.plain(normal(2, 3, 32), quantize="fp8")
    w8, w_scale = fp8_rowwise.quantize_weight(normal(16, 32, seed=1))
    out = fp8_rowwise.run(x8, x_scale, w8, w_scale, None, out_dtype=torch.bfloat16)
    assert out.shape == (2, 3, 16) and out.dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(
    DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (8, 9), reason="no FP8 on this GPU"
)
@pytest.mark.parametrize(
    ("rows", "in_features", "out_features"),
    [(1, 1536, 1536), (17, 1536, 8960), (512, 8960, 1536), (32760, 1536, 4608), (32760, 8960, 1536)],
)
@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32])
def test_gpu_is_plain_torch(rows: int, in_features: int, out_features: int, out_dtype: torch.dtype) -> None:
    x = normal(rows, in_features, dtype=torch.bfloat16)
    weight = normal(out_features, in_features, seed=1, size=in_features**-0.5, dtype=torch.bfloat16)
    bias = normal(out_features, seed=2, dtype=torch.bfloat16)
    x8, x_scale = row_quant.run(x, quantize="fp8")
    w8, w_scale = fp8_rowwise.quantize_weight(weight)
    out = fp8_rowwise.run(x8, x_scale, w8, w_scale, bias, out_dtype=out_dtype)
    assert out.dtype == out_dtype
    plain = fp8_rowwise.plain(x8, x_scale, w8, w_scale, bias, out_dtype=torch.float32)
    # Fast accumulation keeps fewer bits than fp32 between its promotions.
    assert errors(out, plain)[0] <= 0.01
    error, cosine = errors(out, F.linear(x.float(), weight.float(), bias.float()))
    assert error <= fp8_rowwise.MAX_RELATIVE_ERROR and cosine >= fp8_rowwise.MIN_COSINE
