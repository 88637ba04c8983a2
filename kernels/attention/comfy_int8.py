"""comfy-kitchen's attention in INT8, scores and values, of rotated queries and keys: for consumer cards.

On an H200 it is slower than cuDNN's (docs/log.md). B batch, A heads, N queries, M keys, D head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.attention import _comfy
from kernels.attention._checks import check, first_reason, not_among, not_capability, refuse_lengths

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "8bit"
ERROR_FACTOR = 100.0  # of plain bf16; the cosine is the tighter bound
COSINE_BOUND = 0.999


def supports(problem: AttentionProblem) -> str | None:
    if problem.head_dim > 256 or problem.head_dim % 8:
        return f"head size {problem.head_dim} is not a multiple of 8 up to 256"
    return first_reason(
        not_capability(problem, lowest=(7, 5)),
        not_among(problem, dtypes=("bf16", "fp16"), masks=("none",)),
        _comfy.why_not(problem),
    )


def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16 -> [B, A, N, D]."""
    check(q, k, v, scale, kv_lengths)
    refuse_lengths("comfy_int8", kv_lengths)
    out: Tensor = _comfy.int8_attention(q, k, v, scale)
    return out
