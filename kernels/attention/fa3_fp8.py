"""FlashAttention-3 with E4M3 inputs, one scale per head, on compute capability 9.x.

Inputs and weights have 3 bits of mantissa: about 5 % relative error on normal random inputs. Keys lose their
per-channel mean first, which is exact under softmax, and queries and keys are Hadamard-rotated.
B batch, A heads, N queries, M keys, D head size.
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
from kernels.attention._eight_bit import e4m3_heads, smooth_keys
from kernels.attention._fa3 import attend, not_built
from kernels.fused.formats import hadamard

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "8bit"
ERROR_FACTOR = 80.0
COSINE_BOUND = 0.995
GROUPED = True
"""`run_quantized` takes fewer heads of keys and values than of queries, and then one scale of q for each."""


def supports(problem: AttentionProblem) -> str | None:
    if problem.head_dim > 256 or problem.head_dim % 16:
        return f"head size {problem.head_dim} is not a multiple of 16 up to 256"
    return first_reason(
        not_capability(problem, lowest=(9, 0), only=True),
        not_among(problem, dtypes=("bf16",), masks=("none", "lengths")),
        not_installed("fa3_fwd_interface", "fa3_fwd"),
    ) or not_built("fp8")


def run(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None, sm_margin: int = 0
) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16, kv_lengths int32 [B] -> [B, A, N, D] bf16."""
    check(q, k, v, scale, kv_lengths)
    inputs = quantize(q, k, v, kv_lengths=kv_lengths)
    return run_quantized(*inputs, scale=scale, kv_lengths=kv_lengths, sm_margin=sm_margin)


def quantize(
    q: Tensor, k: Tensor, v: Tensor, *, kv_lengths: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `run_quantized` takes, in passes of its own: a model's fused passes make the same on the way."""
    q8, q_scale = e4m3_heads(hadamard(q))
    k8, k_scale = e4m3_heads(hadamard(smooth_keys(k, kv_lengths)))
    v8, v_scale = e4m3_heads(v if kv_lengths is None else without_padding(v, kv_lengths))
    return q8, k8, v8, q_scale, k_scale, v_scale


def run_quantized(
    q8: Tensor,
    k8: Tensor,
    v8: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    v_scale: Tensor,
    *,
    scale: float,
    kv_lengths: Tensor | None = None,
    sm_margin: int = 0,
) -> Tensor:
    """E4M3 [B, A, N, D] from a fused kernel with fp32 [B, A] scales (E4M3 * scale = value) -> bf16.

    Keys and values may have fewer heads; all three scales then have as many as they.
    With `kv_lengths`, padded keys and values must be finite.
    """
    return attend(
        q8, k8, v8, (q_scale, k_scale, v_scale), scale=scale, kv_lengths=kv_lengths, sm_margin=sm_margin
    )
