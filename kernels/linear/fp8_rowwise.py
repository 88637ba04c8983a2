"""FP8 E4M3 linear: per-token activations, per-channel weights, both scales and the bias in the epilogue.

The GEMM is torch's row-wise `_scaled_mm` with fast accumulation: sums stay in the tensor cores, which on
Hopper keep 13 bits below the largest product. `fp8_full_accum` is its twin for layers that lose too much by
that. On the CPU the same rounded values are multiplied in fp32, so that the quality of FP8 can be measured
without a GPU.
M rows (tokens) . K input features . N output features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.descriptors import LinearProblem
from kernels.fused._operators import entry_points
from kernels.fused.formats import FP8, quantize_rows
from kernels.linear._operands import Operands

MAX_RELATIVE_ERROR = 0.05
MIN_COSINE = 0.998
"""Against fp32 of the unquantized operands, for rows of normal-like values, in the Frobenius norm: each
operand brings 0.026 (see `formats`), their matrix product 0.037, and fast accumulation on Hopper a little."""

FORMAT = FP8.name
"""What its operands are rounded to."""
ALIGNMENT = 16
"""Features must be multiples of this: the vectors that the tensor cores' loads need."""


def supports(problem: LinearProblem) -> str | None:
    """None when `run` can do the problem, else the reason."""
    capability = problem.target.capability
    if capability is None:
        return None  # `plain` takes any size
    for name, size in (("input", problem.in_features), ("output", problem.out_features)):
        if size % ALIGNMENT:
            return f"{size} {name} features are no multiple of {ALIGNMENT}"
    if capability < (8, 9):
        return f"compute capability {capability[0]}.{capability[1]} is below 8.9, the first with FP8"
    return None


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [N, K] -> (w8 [N, K] E4M3, w_scale [N] fp32)."""
    w8, scale = quantize_rows(weight.detach(), FP8)
    return w8, scale.flatten()


def multiply(args: Operands, *, use_fast_accum: bool) -> Tensor:
    """The GEMM on a GPU."""
    out_dtype, bias = args.out_dtype, args.bias
    # The epilogue takes a 16-bit bias with a 16-bit output only.
    fused = bias is not None and out_dtype in (torch.bfloat16, torch.float16)
    out = torch._scaled_mm(
        args.x8.reshape(-1, args.x8.shape[-1]),
        args.w8.t(),
        scale_a=args.x_scale.reshape(-1, 1),
        scale_b=args.w_scale.reshape(1, -1),
        bias=bias.to(out_dtype) if fused and bias is not None else None,
        out_dtype=out_dtype,
        use_fast_accum=use_fast_accum,
    )
    if bias is not None and not fused:
        out = (out.float() + bias.float()).to(out_dtype)
    return out.reshape(*args.x8.shape[:-1], -1)


def in_fp32(args: Operands) -> Tensor:
    """What it stands for, in plain torch."""
    out = F.linear(args.x8.float(), args.w8.float()) * args.x_scale * args.w_scale
    return (out if args.bias is None else out + args.bias.float()).to(args.out_dtype)


def _launch(args: Operands) -> Tensor:
    return multiply(args, use_fast_accum=True)


run, plain, launch = entry_points(Operands, plain=in_fp32, launch=_launch)
