"""Our 8-bit attention: int8 scores, values in 16 bits or E4M3. For GPUs since 8.0 whose INT8 rate is double.

Keys lose their per-channel mean first: it adds one number to every score of a row, which softmax ignores,
and holds the outliers that cost int8 its resolution (SageAttention, arXiv 2410.02367). Queries are scaled to
base 2 before rounding, one scale per query; keys have one scale per tile.
B batch, A heads, N queries, M keys, D head size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from kernels.attention._checks import check
from kernels.attention._eight_bit import channel_mean, e4m3_channels, fp16_channels
from kernels.attention._triton import why_not
from kernels.autotune import Tiles, candidates
from kernels.descriptors import KernelError, Target

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "8bit"
ERROR_FACTOR = 100.0  # of plain fp16, which has three bits more than bf16; the cosine is the tighter bound
COSINE_BOUND = 0.999
TABLE = "int8"

Values = Literal["wide", "short", "fp8"]
"""Weights times values. wide: 16 bits summed in fp32; short: fp16 within a tile; fp8: E4M3 summed in fp32."""


def supports(problem: AttentionProblem) -> str | None:
    reason = why_not(problem, masks=("none", "lengths"))
    if reason is None and problem.head_dim < 32:
        return f"head size {problem.head_dim} is below 32, the smallest depth of an int8 matrix product"
    return reason


def default_values(target: Target) -> Values:
    """ "short" where fp16 sums run at twice the rate of fp32 sums: not on 8.0, 9.0 and 10.x."""
    return "short" if target.capability in ((8, 6), (8, 9), (12, 0), (12, 1)) else "wide"


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    kv_lengths: Tensor | None = None,
    tiles: Tiles | None = None,
    values: Values | None = None,
) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16, kv_lengths int32 [B] -> [B, A, N, D]."""
    from kernels.attention._triton_quantize import int8_rows

    check(q, k, v, scale, kv_lengths)
    tiles = tiles or candidates(TABLE, Target.of(q.device), q.shape[3])[0]
    q8, q_scales = int8_rows(
        q, mean=None, kv_lengths=None, factor=scale * math.log2(math.e), rows=tiles.block_m, per_row=True
    )
    k8, k_scales = int8_rows(
        k,
        mean=channel_mean(k, kv_lengths),
        kv_lengths=kv_lengths,
        factor=1.0,
        rows=tiles.block_n,
        per_row=False,
    )
    return run_quantized(q8, k8, v, q_scales, k_scales, kv_lengths=kv_lengths, tiles=tiles, values=values)


def run_quantized(
    q8: Tensor,
    k8: Tensor,
    v: Tensor,
    q_scales: Tensor,
    k_scales: Tensor,
    *,
    kv_lengths: Tensor | None = None,
    tiles: Tiles | None = None,
    values: Values | None = None,
) -> Tensor:
    """The attention of inputs that a fused kernel quantized.

    q8 int8 [B, A, N, D] with q_scales fp32 [B, A, N], which hold softmax scale * log2(e); k8 int8
    [B, A, M, D], mean subtracted, with k_scales fp32 [B, A, ceil(M / tiles.block_n)]; v bf16 or fp16
    [B, A, M, D].
    """
    from kernels.attention._triton_forward import Arguments, forward

    target = Target.of(q8.device)
    tiles = tiles or candidates(TABLE, target, q8.shape[3])[0]
    values = values or default_values(target)
    out_dtype, v_scales = v.dtype, None
    if values == "fp8":
        if target.capability is not None and target.capability < (8, 9):
            raise KernelError(f"E4M3 values need compute capability 8.9, this is {target}")
        v, v_scales = e4m3_channels(v, kv_lengths)
    elif values == "short":
        v, v_scales = fp16_channels(v, kv_lengths)
    return forward(
        Arguments(
            q=q8,
            k=k8,
            v=v,
            q_scales=q_scales,
            k_scales=k_scales,
            v_scales=v_scales,
            kv_lengths=kv_lengths,
            scale=1.0,
            short=values == "short",
            out_dtype=out_dtype,
            block_m=tiles.block_m,
            block_n=tiles.block_n,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
    )
