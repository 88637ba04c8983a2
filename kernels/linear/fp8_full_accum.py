"""FP8 E4M3 linear as `fp8_rowwise`, with sums taken out of the tensor cores into fp32 every 128 products.

Slower, for layers whose inputs have outliers: in a long sum with one large product the others are lost there.
M rows (tokens) . K input features . N output features.
"""

from torch import Tensor

from kernels.fused._operators import entry_points
from kernels.linear._operands import Operands
from kernels.linear.fp8_rowwise import (
    FORMAT,
    MAX_RELATIVE_ERROR,
    MIN_COSINE,
    in_fp32,
    multiply,
    quantize_weight,
    supports,
)

__all__ = [
    "FORMAT",
    "MAX_RELATIVE_ERROR",
    "MIN_COSINE",
    "launch",
    "plain",
    "quantize_weight",
    "run",
    "supports",
]


def _launch(args: Operands) -> Tensor:
    return multiply(args, use_fast_accum=False)


run, plain, launch = entry_points(Operands, plain=in_fp32, launch=_launch)
