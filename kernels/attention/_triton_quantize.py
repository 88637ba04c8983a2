"""Queries and keys to int8 for the matrix product of scores, in one pass over each.

Does not know the attention that follows. Invariant: padded tokens become zeros whatever they held, and an
all-zero group keeps a scale above zero. B batch, A heads, N tokens, D head size.
"""

# Triton has no type stubs, and the arguments of its kernels no Python types.
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.fused._jit import largest, scale_of
from kernels.fused._operators import triton_op, wrap


@triton.jit
def _int8_rows(
    x_at, mean_at, out_at, scales, lengths, x_b, x_a, x_n, heads, num_tokens, factor: tl.constexpr,
    HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, MEAN: tl.constexpr, LENGTHS: tl.constexpr,
    PER_ROW: tl.constexpr,
):  # fmt: skip
    """ROWS tokens of one head: subtract the mean, multiply, round; one scale per row or one for all."""
    tile = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    batch = sequence // heads
    rows = tile * ROWS + tl.arange(0, ROWS)
    depth = tl.arange(0, HEAD_DIM)
    limit = num_tokens
    if LENGTHS:
        limit = tl.minimum(tl.load(lengths + batch), num_tokens)
    valid = (rows < limit)[:, None]
    x_head = x_at + batch * x_b + (sequence % heads) * x_a
    x = tl.load(x_head + rows[:, None] * x_n + depth[None, :], mask=valid, other=0.0).to(tl.float32)
    if MEAN:
        mean = tl.load(mean_at + sequence * HEAD_DIM + depth)
        x = tl.where(valid, x - mean[None, :], 0.0)
    x = x * factor
    peak = largest(x, 1)
    if PER_ROW:
        scale = scale_of(peak, 127.0, 1e-12)
        tl.store(scales + sequence * num_tokens + rows, scale, mask=rows < num_tokens)
        x = x / scale[:, None]
    else:
        scale = scale_of(largest(peak, 0), 127.0, 1e-12)
        tl.store(scales + sequence * tl.num_programs(0) + tile, scale)
        x = x / scale
    x = tl.where(x >= 0, x + 0.5, x - 0.5)  # the conversion cuts off
    out_head = out_at + sequence * num_tokens * HEAD_DIM
    tl.store(
        out_head + rows[:, None] * HEAD_DIM + depth[None, :],
        x.to(tl.int8),
        mask=(rows < num_tokens)[:, None],
    )


def _quantize(
    x: Tensor, mean: Tensor | None, kv_lengths: Tensor | None, factor: float, rows: int, per_row: bool
) -> tuple[Tensor, Tensor]:
    """(x - mean) * factor to int8 [B, A, N, D] and fp32 scales [B, A, N], or one scale per `rows` tokens.

    mean fp32 [B, A, D]. The scales multiply back: int8 * scale = (x - mean) * factor.
    """
    batch, heads, num_tokens, head_dim = x.shape
    absent = x.new_empty(1)  # stands for an argument that is not read; torch.compile may copy it
    num_groups = triton.cdiv(num_tokens, rows)
    out = torch.empty((batch, heads, num_tokens, head_dim), dtype=torch.int8, device=x.device)
    scales = torch.empty(
        (batch, heads, num_tokens if per_row else num_groups), dtype=torch.float32, device=x.device
    )
    wrap(_int8_rows)[(num_groups, batch * heads)](
        x, absent if mean is None else mean, out, scales, absent if kv_lengths is None else kv_lengths,
        *x.stride()[:3], heads, num_tokens, factor,
        HEAD_DIM=head_dim, ROWS=rows, MEAN=mean is not None, LENGTHS=kv_lengths is not None, PER_ROW=per_row,
    )  # fmt: skip
    return out, scales


int8_rows = triton_op("retake::attention_int8_rows", _quantize)
