"""Our sparse attention behind a prefix, all of it in Triton; in plain torch on a CPU. Any GPU since 8.0.

Keys of the prefix are exact, of the others a fixed share is, and the rest are means (`_prefix_sparse`).
B batch, A heads, N queries, M keys, D head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.attention import _prefix_sparse, _triton
from kernels.attention._checks import check, first_reason, not_among, refuse_lengths
from kernels.attention._prefix_sparse import Layout
from kernels.autotune import Tiles

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "sparse"
ERROR_FACTOR = 4.0
TABLE = _prefix_sparse.TABLE
TAKES_PREFIX = True
LAYOUT = _prefix_sparse.LAYOUT
expected = _prefix_sparse.expected


def supports(problem: AttentionProblem) -> str | None:
    return first_reason(_prefix_sparse.nothing_sparse(problem), _not_here(problem))


def _not_here(problem: AttentionProblem) -> str | None:
    if problem.target.kind == "cuda" or problem.target.interpreted:
        return _triton.why_not(problem, masks=("none",))
    scores = problem.batch * problem.heads * problem.q_len * problem.kv_len
    if scores > _prefix_sparse.MAX_SCORES:
        return f"{scores} scores would be kept in memory, more than {_prefix_sparse.MAX_SCORES}"
    return not_among(problem, dtypes=("bf16", "fp16", "fp32"), masks=("none",))


def plain(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, prefix: int = 0, rows: slice, layout: Layout = LAYOUT
) -> Tensor:
    """fp32 [B, A, n, D]: the formula in torch, for the n queries of `rows` alone."""
    return _prefix_sparse.attention(q, k, v, scale=scale, prefix=prefix, layout=layout, rows=rows)


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    prefix: int = 0,
    kv_lengths: Tensor | None = None,
    tiles: Tiles | None = None,
    layout: Layout = LAYOUT,
) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16, on a CPU fp32 too -> [B, A, N, D].

    The first `prefix` keys are attended exactly, by every query.
    """
    check(q, k, v, scale, kv_lengths)
    refuse_lengths("triton_prefix_sparse", kv_lengths)
    if q.device.type == "cpu":
        return _prefix_sparse.attention(q, k, v, scale=scale, prefix=prefix, layout=layout).to(q.dtype)
    return _prefix_sparse.launch(q, k, v, None, scale=scale, prefix=prefix, layout=layout, tiles=tiles)
