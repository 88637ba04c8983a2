"""comfy-kitchen's Sol-Attn (arXiv 2607.24027): INT8 and sparse, blocks of the prefix chosen like any other.

A fixed share of the blocks of 64 keys, those beside the own block and no others are exact, the rest are
means. It has a way to keep a prefix exact, which costs on an H200 all that sparsity gains (docs/log.md): for
that there is fa3_prefix_sparse. B batch, A heads, N tokens, D head size.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kernels.attention import _comfy
from kernels.attention._checks import check, first_reason, not_among, not_capability, refuse_lengths
from kernels.attention._prefix_sparse import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "sparse"
ERROR_FACTOR = 300.0  # 8 bits, and a block at the edge of the share may be another than the reference's
COSINE_BOUND = 0.95  # on noise, where dense attention is at 0.8
HEAD_DIM = 128
LAYOUT = Layout(query_block=64, key_block=64, ratio=0.25)


def supports(problem: AttentionProblem) -> str | None:
    if problem.head_dim != HEAD_DIM:
        return f"head size {problem.head_dim} is not {HEAD_DIM}"
    if problem.q_len != problem.kv_len:
        return f"{problem.q_len} queries are not as many as {problem.kv_len} keys"
    return first_reason(
        not_capability(problem, lowest=(8, 0)),
        not_among(problem, dtypes=("bf16", "fp16"), masks=("none",)),
        _comfy.why_not(problem),
    )


def expected(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """fp32 [B, A, N, D]: the library's own reference in plain torch, with its choice of blocks."""
    reference = importlib.import_module("comfy_kitchen.backends.eager.sol_attn")
    given = (x.transpose(1, 2).float() for x in (q, k, v))
    out: Tensor = reference.sol_attn(*given, scale=scale, topk_ratio=LAYOUT.ratio)
    return out.transpose(1, 2)


def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None) -> Tensor:
    """q, k, v [B, A, N, 128] bf16 or fp16 -> [B, A, N, 128]."""
    check(q, k, v, scale, kv_lengths)
    refuse_lengths("comfy_sol", kv_lengths)
    out: Tensor = _comfy.sol_attention(*(x.transpose(1, 2) for x in (q, k, v)), scale, LAYOUT.ratio, 0)
    return out.transpose(1, 2)
