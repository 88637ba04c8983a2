"""Our sparse attention behind a prefix, whose keys FlashAttention-3 attends: for compute capability 9.x.

Two kernels joined by log-sum-exp: what the first makes of the prefix, the second starts from. Keys of the
prefix are exact, of the others a fixed share is, and the rest are means (`_prefix_sparse`).
B batch, A heads, N queries, M keys, D head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.attention import _fa3, _prefix_sparse, _triton, fa3
from kernels.attention._checks import check, first_reason, refuse_lengths
from kernels.attention._prefix_sparse import LAYOUT, Layout
from kernels.autotune import Tiles

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "sparse"
ERROR_FACTOR = 4.0
TABLE = _prefix_sparse.TABLE
TAKES_PREFIX = True
expected = _prefix_sparse.expected


def supports(problem: AttentionProblem) -> str | None:
    return first_reason(
        _prefix_sparse.nothing_sparse(problem),
        "there is no prefix: triton_prefix_sparse is the same" if problem.prefix == 0 else None,
        fa3.supports(problem),
        _triton.why_not(problem, masks=("none",)),
    )


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    prefix: int,
    kv_lengths: Tensor | None = None,
    tiles: Tiles | None = None,
    layout: Layout = LAYOUT,
) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16, of which the first `prefix` keys, at least one, are
    attended exactly, by every query -> [B, A, N, D]."""
    check(q, k, v, scale, kv_lengths)
    refuse_lengths("fa3_prefix_sparse", kv_lengths)
    start = _fa3.attend_with_lse(q, k[:, :, :prefix], v[:, :, :prefix], scale=scale)
    return _prefix_sparse.launch(q, k, v, start, scale=scale, prefix=prefix, layout=layout, tiles=tiles)
