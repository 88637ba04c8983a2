"""torch's memory-efficient attention (CUTLASS): fp32 too, and bool masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.attention import SDPBackend

from kernels.attention._checks import first_reason, not_among, not_capability
from kernels.attention._sdpa import attend

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "exact"
ERROR_FACTOR = 2.0


def supports(problem: AttentionProblem) -> str | None:
    if problem.head_dim % 8:
        return f"head size {problem.head_dim} is not a multiple of 8"
    return first_reason(
        not_capability(problem, lowest=(5, 0)),
        not_among(problem, dtypes=("bf16", "fp16", "fp32"), masks=("none", "lengths")),
    )


def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D], kv_lengths int32 [B] -> [B, A, N, D]."""
    return attend(SDPBackend.EFFICIENT_ATTENTION, q, k, v, scale=scale, kv_lengths=kv_lengths)
