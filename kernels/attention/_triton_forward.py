"""The one attention loop of our Triton kernels: online softmax over tiles of keys, in base 2.

FlashAttention-2 (arXiv 2307.08691) in structure. Dense, 8-bit and skipping attention are compile-time options
of it, not copies; does not know why an option was chosen. Invariants: no padded key is read, weights are
summed in fp32, no keys give 0. B batch, A heads, N queries, M keys, D head size.
"""

# Triton has no type stubs, and the arguments of its kernels no Python types.
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, untyped-decorator"

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.fused._operators import operator, wrap


@triton.jit
def _accumulate(
    acc, total, peak, scores, tile_peak, values, row_scale, P_SHIFT: tl.constexpr, SHORT: tl.constexpr
):
    """One tile into the running softmax. acc [M, D]; total, peak, row_scale [M]; scores [M, N]."""
    new_peak = tl.maximum(peak, tile_peak)
    # One fused multiply-add and one exp2 per score: the scale of the row is applied here, never before.
    weights = tl.math.exp2(tl.fma(scores, row_scale[:, None], (P_SHIFT - new_peak)[:, None]))
    keep = tl.math.exp2(peak - new_peak)
    total = total * keep + tl.sum(weights, 1)
    acc = acc * keep[:, None]
    if SHORT:
        # fp16 sums of one tile only; twice the rate of fp32 sums on GPUs that are not data-centre parts
        acc += tl.dot(weights.to(tl.float16), values, out_dtype=tl.float16).to(tl.float32)
    elif values.dtype == tl.float8e4nv:
        # Hopper's FP8 matrix instruction accumulates in few bits: the sum across tiles stays outside of it
        acc += tl.dot(weights.to(tl.float8e4nv), values)
    else:
        acc = tl.dot(weights.to(values.dtype), values, acc)
    return acc, total, new_peak


@triton.jit
def _tile(
    acc, total, peak, q, k_head, v_head, k_n, v_n, v_d, k_scales, row_scale, start, limit,
    gap: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
    INT8: tl.constexpr, SKIP: tl.constexpr, P_SHIFT: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """The keys start..start+BLOCK_N, of which those below `limit` exist."""
    columns = start + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, HEAD_DIM)
    k_at = k_head + depth[:, None] + columns[None, :] * k_n
    v_at = v_head + columns[:, None] * v_n + depth[None, :] * v_d
    if MASKED:
        inside = columns < limit
        keys = tl.load(k_at, mask=inside[None, :], other=0.0)
        values = tl.load(v_at, mask=inside[:, None], other=0.0)
    else:
        keys = tl.load(k_at)
        values = tl.load(v_at)
    scores = tl.dot(q, keys).to(tl.float32)
    if MASKED:
        scores = tl.where(inside[None, :], scores, float("-inf"))
    if INT8:
        row_scale = row_scale * tl.load(k_scales + start // BLOCK_N)
    tile_peak = tl.max(scores, 1) * row_scale
    if SKIP:
        # BLASST: no weight of this tile would reach 2**-gap of the largest weight so far, in any row
        if tl.max(tile_peak - peak) >= -gap:
            acc, total, peak = _accumulate(
                acc, total, peak, scores, tile_peak, values, row_scale, P_SHIFT, SHORT
            )
    else:
        acc, total, peak = _accumulate(acc, total, peak, scores, tile_peak, values, row_scale, P_SHIFT, SHORT)
    return acc, total, peak


@triton.jit
def _forward(
    q_at, k_at, v_at, out_at, q_scales, k_scales, v_scales, lengths,
    q_b, q_a, q_n, k_b, k_a, k_n, v_b, v_a, v_n, v_d, out_b, out_a, out_n,
    heads, q_len, kv_len, scale: tl.constexpr, gap: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    LENGTHS: tl.constexpr, INT8: tl.constexpr, V_SCALES: tl.constexpr, SKIP: tl.constexpr,
    P_SHIFT: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M queries of one head."""
    tile_m = tl.program_id(0)
    sequence = tl.program_id(1)
    batch = (sequence // heads).to(tl.int64)
    head = (sequence % heads).to(tl.int64)
    k_head = k_at + batch * k_b + head * k_a
    v_head = v_at + batch * v_b + head * v_a
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    # Rows past the end repeat the last one, so that they decide nothing in a test over all rows.
    safe_rows = tl.minimum(rows, q_len - 1)
    depth = tl.arange(0, HEAD_DIM)
    q = tl.load(q_at + batch * q_b + head * q_a + safe_rows[:, None] * q_n + depth[None, :])

    limit = kv_len
    if LENGTHS:
        limit = tl.minimum(tl.load(lengths + batch), kv_len)
    if INT8:
        row_scale = tl.load(q_scales + sequence.to(tl.int64) * q_len + safe_rows)
        k_scales += sequence.to(tl.int64) * tl.cdiv(kv_len, BLOCK_N)
    else:
        row_scale = tl.full([BLOCK_M], scale, tl.float32)

    num_tiles = tl.cdiv(limit, BLOCK_N)
    full = limit // BLOCK_N
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for i in range(0, full):
        acc, total, peak = _tile(
            acc, total, peak, q, k_head, v_head, k_n, v_n, v_d, k_scales, row_scale, i * BLOCK_N, limit, gap,
            HEAD_DIM, BLOCK_N, False, INT8, SKIP, P_SHIFT, SHORT,
        )  # fmt: skip
    for i in tl.range(full, num_tiles, num_stages=1):
        acc, total, peak = _tile(
            acc, total, peak, q, k_head, v_head, k_n, v_n, v_d, k_scales, row_scale, i * BLOCK_N, limit, gap,
            HEAD_DIM, BLOCK_N, True, INT8, SKIP, P_SHIFT, SHORT,
        )  # fmt: skip

    if LENGTHS:
        total = tl.where(total > 0, total, 1.0)  # a row of length 0: 0 / 1
    acc = acc / total[:, None]
    if V_SCALES:
        acc = acc * tl.load(v_scales + sequence * HEAD_DIM + depth)[None, :]
    out_head = out_at + batch * out_b + head * out_a
    tl.store(
        out_head + rows[:, None] * out_n + depth[None, :],
        acc.to(out_at.dtype.element_ty),
        mask=rows[:, None] < q_len,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """q [B, A, N, D], k and v [B, A, M, D] (v in E4M3: any strides) -> [B, A, N, D] in `out_dtype`.

    With int8 q and k, q_scales fp32 [B, A, N] stand for `scale` and k_scales fp32 [B, A, ceil(M / block_n)]
    multiply k back; v_scales fp32 [B, A, D] multiply v back. kv_lengths int32 [B].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_scales: Tensor | None = None
    k_scales: Tensor | None = None
    v_scales: Tensor | None = None
    kv_lengths: Tensor | None = None
    scale: float
    """Of the scores, with log2(e)."""
    gap: float = math.inf
    """Tiles whose scores all lie this far below the largest so far, in base 2, are skipped."""
    short: bool = False
    """fp16 v is summed in fp16 within a tile."""
    out_dtype: torch.dtype
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def _attend(args: Arguments) -> Tensor:
    """The operator."""
    q, k, v = args.q, args.k, args.v
    batch, heads, q_len, head_dim = q.shape
    # The result has the memory order of tokens first: [B, N, A, D] is what the next linear layer reads.
    shape = (batch, q_len, heads, head_dim)
    out = torch.empty(shape, dtype=args.out_dtype, device=q.device).transpose(1, 2)
    skip = args.gap != math.inf
    # An argument that its option does not read is any tensor; torch.compile may copy it, so a small one.
    absent = q.new_empty(1)
    optional = (args.q_scales, args.k_scales, args.v_scales, args.kv_lengths)
    wrap(_forward)[(triton.cdiv(q_len, args.block_m), batch * heads)](
        q, k, v, out, *(absent if tensor is None else tensor for tensor in optional),
        *q.stride()[:3], *k.stride()[:3], *v.stride(), *out.stride()[:3],
        heads, q_len, k.shape[2], args.scale, args.gap if skip else 0.0,
        HEAD_DIM=head_dim, BLOCK_M=args.block_m, BLOCK_N=args.block_n,
        LENGTHS=args.kv_lengths is not None, INT8=args.q_scales is not None,
        V_SCALES=args.v_scales is not None, SKIP=skip,
        # Weights up to 256 of E4M3's 448: fewer fall below its smallest value.
        P_SHIFT=8.0 if v.dtype == torch.float8_e4m3fn else 0.0, SHORT=args.short,
        num_warps=args.num_warps, num_stages=args.num_stages,
    )  # fmt: skip
    return out


forward = operator("retake::attention_forward", Arguments, _attend)
