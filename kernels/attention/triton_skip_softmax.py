"""Dense attention that skips a tile of keys whose weights would all be negligible (BLASST, arXiv 2512.12087).

A tile is skipped when, in every row of the tile of queries, its largest score lies more than `threshold`
below the largest score so far: each weight left out is below exp(-threshold) of the row's largest. Saved are
the exponentials and the matrix product with the values.
"""

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
    tiles: Tiles | None = None,
    threshold: float | None = DEFAULT_THRESHOLD,
) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16 -> [B, A, N, D]. threshold None skips nothing."""
    from kernels.attention._triton_forward import Arguments, forward

    check(q, k, v, scale, kv_lengths)
    assert threshold is None or threshold > 0, f"threshold {threshold} is not positive"
    tiles = tiles or candidates(TABLE, Target.of(q.device), q.shape[3])[0]
    return forward(
        Arguments(
            q=q,
            k=k,
            v=v,
            kv_lengths=kv_lengths,
            scale=scale * math.log2(math.e),
            gap=math.inf if threshold is None else threshold * math.log2(math.e),
            out_dtype=q.dtype,
            block_m=tiles.block_m,
            block_n=tiles.block_n,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
    )
