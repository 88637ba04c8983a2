"""GEMMs of few rows with 4-bit weights, at the layers of the 8B critic: ours, bitsandbytes', and 16 bits.

All three multiply by the same NF4 levels and scales, and are compared with fp64 of them.
M rows (tokens) . K input features . N output features.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from bench.perf.benchmark_tools import (
    DEVICE,
    DTYPE,
    TARGET,
    TINY,
    Benchmark,
    assert_close,
    measure,
    need,
    normal,
    size_bytes,
    sizes,
)
from bench.perf.critic_steps import missing
from engine.quant.four_bit import FourBitLinear, pack_linears
from kernels.descriptors import LinearProblem
from kernels.linear import four_bit

LAYERS = {
    "merged QKV": (4096, 6144),
    "attention output": (4096, 4096),
    "gate and up": (4096, 24576),
    "up": (4096, 12288),
    "down": (12288, 4096),
}
"""Input and output features; a 32nd of them at the tiny size."""
ROWS = (1, 8, 16)
NAMES = ("ours", "bitsandbytes", "bf16")
CLOSE = 0.01
"""Levels, scales and sums are rounded to bf16."""


def layers(in_features: int, out_features: int) -> tuple[nn.Module, FourBitLinear]:
    """One weight in both forms: bitsandbytes' layer and ours made of it."""
    library: Any = importlib.import_module("bitsandbytes.nn")  # Any: its own annotations are incomplete
    given = library.Linear4bit(
        in_features, out_features, bias=False, compute_dtype=DTYPE, compress_statistics=False,
        quant_type="nf4", device="meta",
    )  # fmt: skip
    weight = normal(out_features, in_features, seed=2) * in_features**-0.5
    given.weight = library.Params4bit(
        weight, requires_grad=False, compress_statistics=False, quant_type="nf4"
    ).to(DEVICE)
    holder = nn.Module()
    holder.layer = given
    assert pack_linears([[(holder, "layer")]]) == 1, "bitsandbytes' layer was not packed"
    assert isinstance(holder.layer, FourBitLinear)
    return given, holder.layer


def gemm(name: str, x: Tensor, given: nn.Module, packed: FourBitLinear) -> tuple[Callable[[], Tensor], int]:
    """(the GEMM, the bytes of its weight)."""
    if name == "ours":
        return partial(four_bit.run, x, packed.packed), size_bytes(packed.tiles)
    if name == "bitsandbytes":
        return partial(given, x), size_bytes(packed.tiles)  # as many bits, laid out otherwise
    dense = four_bit.dequantize(packed.packed)
    return partial(F.linear, x, dense), size_bytes(dense)


@sizes("8b")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_four_bit(benchmark: Benchmark, name: str, layer: str, rows: int, size: str) -> None:
    in_features, out_features = (n // 32 if size == TINY else n for n in LAYERS[layer])
    problem = LinearProblem(
        rows=rows, in_features=in_features, out_features=out_features, dtype="bf16", target=TARGET
    )
    need("nf4", missing("nf4"))
    need(name, four_bit.supports(problem) if name == "ours" else None)
    given, packed = layers(in_features, out_features)
    x = normal(rows, in_features, seed=1)
    run, num_bytes = gemm(name, x, given, packed)
    exact = F.linear(x.double(), four_bit.dequantize(packed.packed).double())
    errors = assert_close(run(), exact, relative=CLOSE, cosine=1 - CLOSE**2)
    measure(
        benchmark,
        run,
        group=f"4-bit {layer} {problem}",
        flops=problem.flops,
        num_bytes=num_bytes + size_bytes(x),
        errors=errors,
    )
