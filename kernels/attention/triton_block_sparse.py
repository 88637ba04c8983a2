"""Exact attention under a block mask, such as 3-D neighbourhoods of video tokens: hidden blocks cost nothing.

The mask is part of the problem, so the result is exact for it; choosing the mask is what loses quality. A
tile of queries is one block of the mask, a tile of keys a block or a part of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kernels.attention._checks import check
from kernels.attention._triton import why_not
from kernels.autotune import Tiles, candidates
from kernels.descriptors import KernelError, Target

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.attention._blocks import BlockMask
    from kernels.descriptors import AttentionProblem

ACCURACY = "exact"
ERROR_FACTOR = 2.0
TABLE = "dense"


def supports(problem: AttentionProblem) -> str | None:
    return why_not(problem, masks=("blocks",))


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    kv_lengths: Tensor | None = None,
    blocks: BlockMask | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16 -> [B, A, N, D]. `blocks` is required."""
    from kernels.attention._triton_forward import forward

    check(q, k, v, scale, kv_lengths, blocks)
    if blocks is None or kv_lengths is not None:
        raise KernelError(
            "triton_block_sparse takes a block mask and no kv_lengths; triton_dense takes lengths"
        )
    assert (blocks.q_len, blocks.kv_len) == (q.shape[2], k.shape[2]), (
        f"mask of {blocks.q_len} x {blocks.kv_len} tokens for {q.shape[2]} x {k.shape[2]}"
    )
    tiles = tiles or candidates(TABLE, Target.of(q.device), q.shape[3])[0]
    block_n = min(tiles.block_n, blocks.block)
    out: Tensor = forward(
        q,
        k,
        v,
        None,
        None,
        None,
        None,
        blocks.indices,
        blocks.counts,
        k.shape[2],
        scale * math.log2(math.e),
        math.inf,
        blocks.block // block_n,
        False,
        blocks.block,
        block_n,
        tiles.num_warps,
        tiles.num_stages,
        q.dtype,
    )
    return out
