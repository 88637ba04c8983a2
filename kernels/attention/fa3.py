"""FlashAttention-3 from the wheel `fa3_fwd`: the fastest bf16 attention on compute capability 9.x.

B batch, A heads, N queries, M keys, D head size; the wheel wants tokens before heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.attention._checks import (
    check,
    first_reason,
    not_among,
    not_capability,
    not_installed,
    without_padding,
)
from kernels.attention._fa3 import attend, not_built

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "exact"
ERROR_FACTOR = 2.0
GROUPED = True
"""Heads of queries may share heads of keys and values, a whole number of them each."""


def supports(problem: AttentionProblem) -> str | None:
    if problem.head_dim > 256 or problem.head_dim % 8:
        return f"head size {problem.head_dim} is not a multiple of 8 up to 256"
    return first_reason(
        not_capability(problem, lowest=(9, 0), only=True),
        not_among(problem, dtypes=("bf16", "fp16"), masks=("none", "lengths")),
        not_installed("fa3_fwd_interface", "fa3_fwd"),
    ) or not_built(problem.dtype)


def run(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None, sm_margin: int = 0
) -> Tensor:
    """q [B, A, N, D], k and v [B, A or fewer, M, D] bf16, kv_lengths int32 [B] -> [B, A, N, D].

    `sm_margin` multiprocessors are left free for work on another stream.
    """
    check(q, k, v, scale, kv_lengths, grouped=True)
    if kv_lengths is not None:
        v = without_padding(v, kv_lengths)  # its last tile multiplies padded values by weights of zero
    return attend(q, k, v, None, scale=scale, kv_lengths=kv_lengths, sm_margin=sm_margin)
