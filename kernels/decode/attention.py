"""Attention of new queries over the filled positions of their slot's KV cache (split-KV, "flash decoding":
https://pytorch.org/blog/flash-decoding/), with grouped queries.

The cache is read once a row and never copied: a program takes a chunk of positions of one key head for all
its query heads, a second kernel joins the chunks by their log-sum-exp, in order. Chunks of a head size are
equally long, so the result of a row depends on its own length alone. R rows . S slots . H query heads . G key
heads . L positions . D head size.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import block_size, ceil_div, jit, tl, to_element, why_not
from kernels.fused._operators import entry_points

CHUNK_NUMBERS = 128 * 128
"""Keys of one program: 64 KiB of bf16 keys and values, whatever the head size."""
MAX_CHUNK = 128
"""Positions of one program at most."""


def supports(target: Target, *, head_dim: int) -> str | None:
    """None when `run` can use its Triton kernels, else the reason."""
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"head size {head_dim} is no power of two from 16 on"
    return why_not(target)


def chunk_of(head_dim: int) -> int:
    """Positions of one program."""
    return min(MAX_CHUNK, CHUNK_NUMBERS // head_dim)


@dataclass(frozen=True, slots=True)
class Arguments:
    """-> [R, H, D] of the type of q, softmax(q k^T / sqrt(D)) v in fp32 sums.

    q [R, H, D]; keys, values [S, G, L, D]; lengths int64 [R], 1 to L: how many positions a row sees; slots
    int64 [R]: whose cache it sees. All contiguous.
    """

    q: Tensor
    keys: Tensor
    values: Tensor
    lengths: Tensor
    slots: Tensor


def _check(args: Arguments) -> None:
    rows, heads, head_dim = args.q.shape
    assert args.keys.shape == args.values.shape, f"{tuple(args.keys.shape)}, {tuple(args.values.shape)}"
    assert head_dim == args.keys.shape[3] and heads % args.keys.shape[1] == 0, (
        f"q {tuple(args.q.shape)} for keys {tuple(args.keys.shape)}"
    )
    for name, tensor in (("lengths", args.lengths), ("slots", args.slots)):
        assert tensor.shape == (rows,), f"{tuple(tensor.shape)} {name} for {rows} rows"


def _plain(args: Arguments) -> Tensor:
    """A row at a time over its filled positions; reads `lengths`, so not for a GPU that must not wait."""
    out = torch.empty_like(args.q)
    for row, (slot, length) in enumerate(zip(args.slots.tolist(), args.lengths.tolist(), strict=True)):
        q = args.q[row][None, :, None]
        keys, values = args.keys[slot : slot + 1, :, :length], args.values[slot : slot + 1, :, :length]
        out[row] = F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)[0, :, 0]
    return out


@jit
def _chunk_kernel(  # type: ignore[no-untyped-def]
    q_ptr, keys_ptr, values_ptr, lengths_ptr, slots_ptr, out_ptr, state_ptr, length, num_chunks,
    QUERY_HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HEADS: tl.constexpr,
    SIZE: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """One program: SIZE positions of one key head for one row. HEADS is its query heads, filled up to 16.

    out [R, H, chunks, D] fp32, unnormalized; state [R, H, chunks, 2] fp32: largest score (base 2) and sum.
    """
    chunk = tl.program_id(0)
    key_head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    slot = tl.load(slots_ptr + row)
    filled = tl.load(lengths_ptr + row)
    if chunk * SIZE < filled:
        group: tl.constexpr = QUERY_HEADS // KEY_HEADS
        member = tl.arange(0, HEADS)
        column = tl.arange(0, HEAD_DIM)
        place = chunk * SIZE + tl.arange(0, SIZE)
        head = row * QUERY_HEADS + key_head * group + member
        is_head = member < group
        q = tl.load(q_ptr + head[:, None] * HEAD_DIM + column[None, :], mask=is_head[:, None], other=0.0)
        start = (slot * KEY_HEADS + key_head) * length * HEAD_DIM
        inside = place < filled
        offsets = start + place[:, None] * HEAD_DIM + column[None, :]
        k = tl.load(keys_ptr + offsets, mask=inside[:, None], other=0.0)
        v = tl.load(values_ptr + offsets, mask=inside[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (SCALE * 1.4426950408889634)
        scores = tl.where(inside[None, :], scores, float("-inf"))
        largest = tl.max(scores, axis=1)
        p = tl.exp2(scores - largest[:, None])
        total = tl.sum(p, axis=1)
        out = tl.dot(to_element(p, q_ptr), v, input_precision="ieee")
        part = head * num_chunks + chunk
        tl.store(out_ptr + part[:, None] * HEAD_DIM + column[None, :], out, mask=is_head[:, None])
        tl.store(state_ptr + part * 2, largest, mask=is_head)
        tl.store(state_ptr + part * 2 + 1, total, mask=is_head)


@jit
def _join_kernel(  # type: ignore[no-untyped-def]
    parts_ptr, state_ptr, lengths_ptr, out_ptr, num_chunks,
    QUERY_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One program: one head of one row, chunk after chunk."""
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, HEAD_DIM)
    first = (row * QUERY_HEADS + head) * num_chunks
    used = tl.cdiv(tl.load(lengths_ptr + row), SIZE)
    largest = tl.load(state_ptr + first * 2)
    total = tl.load(state_ptr + first * 2 + 1)
    out = tl.load(parts_ptr + first * HEAD_DIM + column)
    for chunk in range(1, used):
        part = first + chunk
        here = tl.load(state_ptr + part * 2)
        both = tl.maximum(largest, here)
        old, new = tl.exp2(largest - both), tl.exp2(here - both)
        total = total * old + tl.load(state_ptr + part * 2 + 1) * new
        out = out * old + tl.load(parts_ptr + part * HEAD_DIM + column) * new
        largest = both
    target = out_ptr + (row * QUERY_HEADS + head) * HEAD_DIM + column
    tl.store(target, to_element(out / total, out_ptr))


def _launch(args: Arguments) -> Tensor:
    rows, heads, head_dim = args.q.shape
    key_heads, length = args.keys.shape[1:3]
    for tensor in (args.q, args.keys, args.values):
        assert tensor.is_contiguous() and tensor.dtype == args.q.dtype, f"{tensor.dtype} {tensor.stride()}"
    size = chunk_of(head_dim)
    num_chunks = ceil_div(length, size)
    shape = (rows, heads, num_chunks)
    parts = torch.empty(*shape, head_dim, dtype=torch.float32, device=args.q.device)
    state = torch.empty(*shape, 2, dtype=torch.float32, device=args.q.device)
    out = torch.empty_like(args.q)
    _chunk_kernel[(num_chunks, key_heads, rows)](
        args.q, args.keys, args.values, args.lengths, args.slots, parts, state, length, num_chunks,
        QUERY_HEADS=heads, KEY_HEADS=key_heads, HEAD_DIM=head_dim, HEADS=block_size(heads // key_heads),
        SIZE=size, SCALE=1 / math.sqrt(head_dim), num_warps=4,
    )  # fmt: skip
    _join_kernel[(heads, rows)](
        parts, state, args.lengths, out, num_chunks, QUERY_HEADS=heads, HEAD_DIM=head_dim, SIZE=size,
        num_warps=1,
    )  # fmt: skip
    return out


run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
