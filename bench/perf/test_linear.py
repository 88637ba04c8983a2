"""Linear layers at the shapes of Wan2.1-1.3B: bf16, FP8, INT8, each against fp32 of the same operands.

Inputs come quantized, as the fused kernels before them leave them: the time is that of the GEMM.
M rows (tokens) . K input features . N output features.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.perf.benchmark_tools import (
    DTYPE,
    TARGET,
    TINY,
    Benchmark,
    assert_close,
    measure,
    need,
    normal,
    sizes,
)
from kernels.descriptors import LinearProblem
from kernels.fused.formats import FP8, INT8, quantize_rows
from kernels.linear import fp8_rowwise, int8

LAYERS = {
    "attention output": (1536, 1536),
    "merged QKV": (1536, 4608),
    "up": (1536, 8960),
    "down": (8960, 1536),
}
"""Input and output features; a tenth of them, in multiples of 16, at the tiny size."""
ROWS = {"480p": 32760, "draft": 8190, TINY: 65}
CHECKED_ROWS = 512
NAMES = ("bf16", "fp8_rowwise", "int8", "int8 library")


def problem_of(layer: str, size: str) -> LinearProblem:
    in_features, out_features = (n // 160 * 16 if size == TINY else n for n in LAYERS[layer])
    return LinearProblem(
        rows=ROWS[size], in_features=in_features, out_features=out_features, dtype="bf16", target=TARGET
    )


def gemm(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Callable[[], Tensor], float, float]:
    """(the GEMM, largest relative error, least cosine)."""
    if name == "bf16":
        return lambda: F.linear(x, weight, bias), torch.finfo(DTYPE).eps, 0.9999
    module, fmt = (fp8_rowwise, FP8) if name == "fp8_rowwise" else (int8, INT8)
    run = int8.run_library if name == "int8 library" else module.run
    x8, x_scale = quantize_rows(x, fmt)
    w8, w_scale = module.quantize_weight(weight)
    bounds = module.MAX_RELATIVE_ERROR, module.MIN_COSINE
    return (lambda: run(x8, x_scale, w8, w_scale, bias, out_dtype=DTYPE)), *bounds


def reason_of(name: str, problem: LinearProblem) -> str | None:
    supports = {
        "fp8_rowwise": fp8_rowwise.supports,
        "int8": int8.supports,
        "int8 library": int8.supports_library,
    }
    return supports[name](problem) if name in supports else None


@sizes("480p", "draft")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_linear(benchmark: Benchmark, name: str, layer: str, size: str) -> None:
    problem = problem_of(layer, size)
    need(name, reason_of(name, problem))
    x = normal(problem.rows, problem.in_features, seed=1)
    weight = normal(problem.out_features, problem.in_features, seed=2) * problem.in_features**-0.5
    bias = normal(problem.out_features, seed=3)
    run, relative, cosine = gemm(name, x, weight, bias)
    rows = slice(-CHECKED_ROWS, None)
    exact = F.linear(x[rows].double(), weight.double(), bias.double())
    errors = assert_close(run()[rows], exact, relative=relative, cosine=cosine)
    measure(benchmark, run, group=f"linear {layer} {problem}", flops=problem.flops, errors=errors)
