"""torch's plain attention: every dtype, head size and mask, memory of N x M scores. The last resort."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.attention import SDPBackend

from kernels.attention._sdpa import attend

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "exact"
ERROR_FACTOR = 2.0
MAX_SCORES = 2**30


def supports(problem: AttentionProblem) -> str | None:
    scores = problem.q_len * problem.kv_len * problem.batch * problem.heads
    if scores > MAX_SCORES:
        return f"{scores} scores would be kept in memory, more than {MAX_SCORES}"
    return None


def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D], kv_lengths int32 [B] -> [B, A, N, D]."""
    return attend(SDPBackend.MATH, q, k, v, scale=scale, kv_lengths=kv_lengths)
