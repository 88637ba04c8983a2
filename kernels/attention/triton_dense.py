"""Our dense attention in Triton, bf16 and fp16: the exact twin of the faster kernels; any GPU since 8.0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kernels.attention._checks import check
from kernels.attention._triton import why_not
from kernels.autotune import Tiles, candidates
from kernels.descriptors import Target

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "exact"
ERROR_FACTOR = 2.0
TABLE = "dense"


def supports(problem: AttentionProblem) -> str | None:
    return why_not(problem, masks=("none", "lengths"))


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    kv_lengths: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16, kv_lengths int32 [B] -> [B, A, N, D]."""
    from kernels.attention._triton_forward import Arguments, forward

    check(q, k, v, scale, kv_lengths)
    tiles = tiles or candidates(TABLE, Target.of(q.device), q.shape[3])[0]
    return forward(
        Arguments(
            q=q,
            k=k,
            v=v,
            kv_lengths=kv_lengths,
            scale=scale * math.log2(math.e),
            out_dtype=q.dtype,
            block_m=tiles.block_m,
            block_n=tiles.block_n,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
    )
