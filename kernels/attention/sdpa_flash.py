"""torch's FlashAttention-2, on CUDA and as a CPU kernel. No mask on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.attention import SDPBackend

from kernels.attention._checks import first_reason, not_among, not_capability, refuse_lengths
from kernels.attention._sdpa import attend

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "exact"
ERROR_FACTOR = 2.0


def supports(problem: AttentionProblem) -> str | None:
    if problem.target.kind == "cpu":
        return not_among(problem, dtypes=("fp32", "bf16", "fp16"), masks=("none", "lengths"))
    if problem.head_dim > 256 or problem.head_dim % 8:
        return f"head size {problem.head_dim} is not a multiple of 8 up to 256"
    return first_reason(
        not_capability(problem, lowest=(8, 0)),
        not_among(problem, dtypes=("bf16", "fp16"), masks=("none",)),
    )


def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D], kv_lengths int32 [B] -> [B, A, N, D]."""
    if q.is_cuda:
        refuse_lengths("sdpa_flash on CUDA", kv_lengths)
    return attend(SDPBackend.FLASH_ATTENTION, q, k, v, scale=scale, kv_lengths=kv_lengths)
