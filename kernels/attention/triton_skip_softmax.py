"""Dense attention that skips a tile of keys whose weights would all be negligible (BLASST, arXiv 2512.12087).

A tile is skipped when, in every row of the tile of queries, its largest score lies more than `threshold`
below the largest score so far: each weight left out is below exp(-threshold) of the row's largest. Saved are
the exponentials and the product with the values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kernels.attention._checks import check, refuse_blocks
from kernels.attention._triton import why_not
from kernels.autotune import Tiles, candidates
from kernels.descriptors import Target

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.attention._blocks import BlockMask
    from kernels.descriptors import AttentionProblem

ACCURACY = "sparse"
ERROR_FACTOR = 4.0
TABLE = "dense"
DEFAULT_THRESHOLD = 9.0
"""In scores after scaling (base e): weights below exp(-9) = 0.00012 of the row's largest are left out."""


def supports(problem: AttentionProblem) -> str | None:
    return why_not(problem, masks=("none", "lengths"))


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    kv_lengths: Tensor | None = None,
    blocks: BlockMask | None = None,
    tiles: Tiles | None = None,
    threshold: float | None = DEFAULT_THRESHOLD,
) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16 -> [B, A, N, D]. threshold None skips nothing."""
    from kernels.attention._triton_forward import forward

    check(q, k, v, scale, kv_lengths, blocks)
    refuse_blocks("triton_skip_softmax", blocks)
    assert threshold is None or threshold > 0, f"threshold {threshold} is not positive"
    tiles = tiles or candidates(TABLE, Target.of(q.device), q.shape[3])[0]
    out: Tensor = forward(
        q,
        k,
        v,
        None,
        None,
        None,
        kv_lengths,
        None,
        None,
        k.shape[2],
        scale * math.log2(math.e),
        math.inf if threshold is None else threshold * math.log2(math.e),
        0,
        False,
        tiles.block_m,
        tiles.block_n,
        tiles.num_warps,
        tiles.num_stages,
        q.dtype,
    )
    return out
