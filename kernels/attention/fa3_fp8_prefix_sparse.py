"""Our sparse attention behind a prefix, whose keys FlashAttention-3 attends in E4M3: compute capability 9.x.

As `fa3_prefix_sparse`, with the FP8 attention of `fa3_fp8` over the prefix: every key of it is seen, rounded
to 3 bits of mantissa; the keys behind it are in 16 bits.
B batch, A heads, N queries, M keys, P keys of the prefix, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.attention import _fa3, _prefix_sparse, _triton, fa3_fp8
from kernels.attention._checks import check, first_reason, refuse_lengths
from kernels.attention._eight_bit import channel_mean
from kernels.attention._prefix_sparse import LAYOUT, Layout
from kernels.autotune import Tiles

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "sparse"
ERROR_FACTOR = 80.0
"""That of fa3_fp8: the prefix may have all of the weight."""
COSINE_BOUND = 0.995
TABLE = _prefix_sparse.TABLE
TAKES_PREFIX = True
expected = _prefix_sparse.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """What FlashAttention-3 reads: E4M3 q [B, A, N, D], k and v [B, A, P, D], and their fp32 [B, A] scales.
    `shift` fp32 [B, A, N]: what the mean of the prefix keys, left out of k, adds to all scores of a query."""

    q: Tensor
    k: Tensor
    v: Tensor
    scales: tuple[Tensor, Tensor, Tensor]
    shift: Tensor


def supports(problem: AttentionProblem) -> str | None:
    return first_reason(
        _prefix_sparse.nothing_sparse(problem),
        "there is no prefix: triton_prefix_sparse does without" if problem.prefix == 0 else None,
        fa3_fp8.supports(problem),
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
    """q [B, A, N, D], k and v [B, A, M, D] bf16, of which the first `prefix` keys, at least one, are attended
    in E4M3 by every query -> [B, A, N, D]."""
    check(q, k, v, scale, kv_lengths)
    refuse_lengths("fa3_fp8_prefix_sparse", kv_lengths)
    rounded = round_prefix(q, k, v, scale=scale, prefix=prefix)
    return run_rounded(q, k, v, rounded, scale=scale, prefix=prefix, tiles=tiles, layout=layout)


def round_prefix(q: Tensor, k: Tensor, v: Tensor, *, scale: float, prefix: int) -> Rounded:
    """In passes of plain torch over q and the prefix, which torch.compile fuses."""
    keys = k[:, :, :prefix]
    q8, k8, v8, *scales = fa3_fp8.quantize(q, keys, v[:, :, :prefix])
    mean = channel_mean(keys, None)[:, :, :, None]  # [B, A, D, 1]
    return Rounded(
        q=q8,
        k=k8,
        v=v8,
        scales=(scales[0], scales[1], scales[2]),
        shift=(q.float() @ mean)[:, :, :, 0] * scale,
    )


def run_rounded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rounded: Rounded,
    *,
    scale: float,
    prefix: int,
    tiles: Tiles | None = None,
    layout: Layout = LAYOUT,
) -> Tensor:
    """As `run`, from what `round_prefix` made of the same inputs."""
    out, lse = _fa3.attend_with_lse(rounded.q, rounded.k, rounded.v, rounded.scales, scale=scale)
    # a shift of all scores leaves the softmax over the prefix alone, but not its weight beside the other keys
    start = (out, lse + rounded.shift)
    return _prefix_sparse.launch(q, k, v, start, scale=scale, prefix=prefix, layout=layout, tiles=tiles)
