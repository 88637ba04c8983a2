"""The loop of our sparse attention in Triton: keys of the prefix, chosen blocks, means of all other blocks.

Online softmax in base 2 over the tiles of `_triton_forward`. The prefix is read here, or was attended before
by another kernel, whose result and log-sum-exp this one starts from: the join costs no pass of its own.
B batch, A heads, N queries, M keys, P keys of the prefix, D head size, I, J blocks of queries and keys, C of
J chosen.
"""

# Triton has no type stubs, and the arguments of its kernels no Python types.
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, untyped-decorator"

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention._triton_forward import _accumulate, _tile
from kernels.fused._operators import operator, wrap

LOG2E = math.log2(math.e)


@triton.jit
def _prefix_sparse(
    q_at, k_at, v_at, out_at, blocks_at, chosen_at, means_at, mean_values_at, start_out_at, start_lse_at,
    q_b, q_a, q_n, k_b, k_a, k_n, v_b, v_a, v_n, start_b, start_a, start_n, out_b, out_a, out_n,
    heads, q_len, kv_len, prefix, num_tiles, num_keys, num_chosen,
    scale: tl.constexpr, log_block: tl.constexpr, log_last: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STARTED: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M queries of one head; num_tiles I, num_keys J, num_chosen C."""
    tile_m = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    batch = sequence // heads
    head = sequence % heads
    k_head = k_at + batch * k_b + head * k_a
    v_head = v_at + batch * v_b + head * v_a
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    safe_rows = tl.minimum(rows, q_len - 1)
    depth = tl.arange(0, HEAD_DIM)
    q = tl.load(q_at + batch * q_b + head * q_a + safe_rows[:, None] * q_n + depth[None, :])
    row_scale = tl.full([BLOCK_M], scale, tl.float32)

    if STARTED:
        # what the prefix gave is one value of weight 1 at its log-sum-exp
        start_head = start_out_at + batch * start_b + head * start_a
        acc = tl.load(start_head + safe_rows[:, None] * start_n + depth[None, :]).to(tl.float32)
        peak = tl.load(start_lse_at + sequence * q_len + safe_rows) * 1.4426950408889634
        total = tl.full([BLOCK_M], 1.0, tl.float32)
        full = 0
        cut = 1
    else:
        peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
        full = prefix // BLOCK_N
        cut = tl.where(prefix % BLOCK_N == 0, 1, 0)

    # Blocks are ascending: none but the last can be the one that the end of the keys cuts. So one loop takes
    # the whole tiles of the prefix and all blocks but the last, another what is left of the prefix and that.
    row = sequence * num_tiles + tile_m
    mine = blocks_at + row * num_chosen
    for i in range(0, full + num_chosen - 1):
        chosen = prefix + tl.load(mine + tl.maximum(i - full, 0)) * BLOCK_N
        start = tl.where(i < full, i * BLOCK_N, chosen)
        acc, total, peak = _tile(
            acc, total, peak, q, k_head, v_head, k_n, v_n, 1, k_at, row_scale, start, kv_len, 0.0,
            HEAD_DIM, BLOCK_N, False, False, False, 0.0, False,
        )  # fmt: skip
    last = prefix + tl.load(mine + num_chosen - 1) * BLOCK_N
    for i in tl.range(cut, 2, num_stages=1):
        start = tl.where(i == 0, full * BLOCK_N, last)
        limit = tl.where(i == 0, prefix, kv_len)
        acc, total, peak = _tile(
            acc, total, peak, q, k_head, v_head, k_n, v_n, 1, k_at, row_scale, start, limit, 0.0,
            HEAD_DIM, BLOCK_N, True, False, False, 0.0, False,
        )  # fmt: skip

    means = means_at + sequence * num_keys * HEAD_DIM
    mean_values = mean_values_at + sequence * num_keys * HEAD_DIM
    for first in tl.range(0, num_keys, BLOCK_N, num_stages=1):
        columns = first + tl.arange(0, BLOCK_N)
        inside = columns < num_keys
        at = columns[:, None] * HEAD_DIM + depth[None, :]
        keys = tl.load(means + at, mask=inside[:, None], other=0.0)
        values = tl.load(mean_values + at, mask=inside[:, None], other=0.0)
        counted = inside & (tl.load(chosen_at + row * num_keys + columns, mask=inside, other=1) == 0)
        scores = tl.dot(q, tl.trans(keys)).to(tl.float32)
        # a mean stands for all keys of its block: log2 of their number, before the scale of the row
        length = tl.where(columns == num_keys - 1, log_last, log_block) / scale
        scores = tl.where(counted[None, :], scores + length[None, :], float("-inf"))
        acc, total, peak = _accumulate(
            acc, total, peak, scores, tl.max(scores, 1) * row_scale, values, row_scale, 0.0, False
        )

    acc = acc / total[:, None]
    out_head = out_at + batch * out_b + head * out_a
    tl.store(
        out_head + rows[:, None] * out_n + depth[None, :],
        acc.to(out_at.dtype.element_ty),
        mask=rows[:, None] < q_len,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16 -> [B, A, N, D] in the dtype of q.

    blocks int32 [B, A, I, C] ascending, chosen bool [B, A, I, J], means and mean_values [B, A, J, D], all
    contiguous, as `_prefix_sparse.choose` makes them. start_out [B, A, N, D] with start_lse fp32 [B, A, N],
    natural logarithm, contiguous: the prefix attended before.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    blocks: Tensor
    chosen: Tensor
    means: Tensor
    mean_values: Tensor
    start_out: Tensor | None = None
    start_lse: Tensor | None = None
    prefix: int
    scale: float
    """Of the scores, with log2(e)."""
    block_m: int
    block_n: int
    last_length: int
    num_warps: int
    num_stages: int


def _attend(args: Arguments) -> Tensor:
    """The operator."""
    q, k, v = args.q, args.k, args.v
    batch, heads, q_len, head_dim = q.shape
    num_tiles, num_chosen = args.blocks.shape[2:]
    assert num_tiles == triton.cdiv(q_len, args.block_m), f"{num_tiles} tiles of {q_len} queries"
    assert v.stride(3) == 1 and args.means.is_contiguous() and args.mean_values.is_contiguous()
    # tokens first in memory, which the next linear layer reads
    out = torch.empty((batch, q_len, heads, head_dim), dtype=q.dtype, device=q.device).transpose(1, 2)
    started = args.start_out is not None
    start = args.start_out if args.start_out is not None else q
    lse = args.start_lse if args.start_lse is not None else q.new_empty(1, dtype=torch.float32)
    assert lse.is_contiguous() and start.stride(3) == 1
    wrap(_prefix_sparse)[(num_tiles, batch * heads)](
        q, k, v, out, args.blocks, args.chosen.to(torch.uint8), args.means, args.mean_values, start, lse,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *start.stride()[:3], *out.stride()[:3],
        heads, q_len, k.shape[2], args.prefix, num_tiles, args.means.shape[2], num_chosen,
        args.scale, math.log2(args.block_n), math.log2(args.last_length),
        HEAD_DIM=head_dim, BLOCK_M=args.block_m, BLOCK_N=args.block_n, STARTED=started,
        num_warps=args.num_warps, num_stages=args.num_stages,
    )  # fmt: skip
    return out


forward = operator("retake::prefix_sparse_attention", Arguments, _attend)
