"""V to FP8 E4M3 with one scale per batch and head, from its real largest value, in two kernels and no wait.

The first finds the largest value of each chunk of tokens, the second reduces those few and rounds: no
atomics, so equal inputs give equal bits. B batch . S tokens . A heads . D head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import block_size, ceil_div, jit, larger, largest, scale_of, tl, to_e4m3, why_not
from kernels.fused._operators import entry_points, operator, wrap
from kernels.fused.formats import FP8, SMALLEST_AMAX, to_format

MAX_CHUNKS = 128
"""Partial maxima per head; with 12 heads that is 1536 programs for the first kernel."""

BLOCK_TOKENS = 32


def supports(target: Target, *, head_dim: int) -> str | None:
    """None when `run` can use its Triton kernels, else the reason."""
    if head_dim > 512:
        return f"head size {head_dim} is above 512"
    return why_not(target, "fp8")


@dataclass(frozen=True, slots=True)
class Arguments:
    """v [B, S, A, D], last dim contiguous, any other strides -> (v8 [B, S, A, D] contiguous, scale [B, A]
    fp32)."""

    v: Tensor


def _plain(args: Arguments) -> tuple[Tensor, Tensor]:
    scale = args.v.abs().amax(dim=(1, 3)).float().clamp_min(SMALLEST_AMAX) / FP8.max  # [B, A]
    return to_format(args.v.float() * (1.0 / scale)[:, None, :, None], FP8), scale


@jit
def _chunk_amax(  # type: ignore[no-untyped-def]
    v_ptr, partial_ptr, num_tokens, heads, head_dim, stride_b, stride_s, stride_a, num_chunks, chunk_tokens,
    TOKENS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: the largest |v| of one chunk of one head. partial [B, A, chunks]."""
    chunk = tl.program_id(0)
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    dim = tl.arange(0, BLOCK_D)
    base = v_ptr + batch * stride_b + head * stride_a + dim[None, :]
    amax = tl.zeros([TOKENS, BLOCK_D], dtype=tl.float32)
    for start in range(0, chunk_tokens, TOKENS):
        token = (chunk * chunk_tokens + start + tl.arange(0, TOKENS)).to(tl.int64)
        mask = (token < num_tokens)[:, None] & (dim < head_dim)[None, :]
        v = tl.load(base + token[:, None] * stride_s, mask=mask, other=0.0)
        amax = larger(amax, tl.abs(v.to(tl.float32)))
    target = partial_ptr + (batch * heads + head) * num_chunks + chunk
    tl.store(target, largest(largest(amax, 1), 0))


@jit
def _quantize(  # type: ignore[no-untyped-def]
    v_ptr, partial_ptr, out_ptr, scale_ptr, num_tokens, heads, head_dim, stride_b, stride_s, stride_a,
    num_chunks, TOKENS: tl.constexpr, BLOCK_D: tl.constexpr, CHUNKS: tl.constexpr,
    FORMAT_MAX: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """One program: TOKENS tokens of one head; the program of the first tokens stores the scale of the
    head."""
    block = tl.program_id(0)
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    chunk = tl.arange(0, CHUNKS)
    place = batch * heads + head
    partial = tl.load(partial_ptr + place * num_chunks + chunk, mask=chunk < num_chunks, other=0.0)
    scale = scale_of(largest(partial, 0), FORMAT_MAX, SMALLEST)
    if block == 0:
        tl.store(scale_ptr + place, scale)
    token = (block * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    dim = tl.arange(0, BLOCK_D)
    mask = (token < num_tokens)[:, None] & (dim < head_dim)[None, :]
    source = v_ptr + batch * stride_b + head * stride_a + token[:, None] * stride_s + dim[None, :]
    v = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    target = ((batch * num_tokens + token) * heads + head)[:, None] * head_dim + dim[None, :]
    tl.store(out_ptr + target, to_e4m3(v * (1.0 / scale)), mask=mask)


def _head_quant(args: Arguments) -> tuple[Tensor, Tensor]:
    """The operator."""
    v = args.v
    batch, num_tokens, heads, head_dim = v.shape
    assert v.stride(-1) == 1, f"last dim must be contiguous: {v.stride()}"
    chunk_tokens = ceil_div(ceil_div(num_tokens, MAX_CHUNKS), BLOCK_TOKENS) * BLOCK_TOKENS
    num_chunks = ceil_div(num_tokens, chunk_tokens)
    partial = torch.empty((batch, heads, num_chunks), dtype=torch.float32, device=v.device)
    out = torch.empty(v.shape, dtype=FP8.dtype, device=v.device)
    scale = torch.empty((batch, heads), dtype=torch.float32, device=v.device)
    block_d = block_size(head_dim)
    sizes = (num_tokens, heads, head_dim, v.stride(0), v.stride(1), v.stride(2))
    wrap(_chunk_amax)[(num_chunks, heads, batch)](
        v, partial, *sizes, num_chunks, chunk_tokens, TOKENS=BLOCK_TOKENS, BLOCK_D=block_d, num_warps=4
    )
    wrap(_quantize)[(ceil_div(num_tokens, BLOCK_TOKENS), heads, batch)](
        v, partial, out, scale, *sizes, num_chunks, TOKENS=BLOCK_TOKENS, BLOCK_D=block_d,
        CHUNKS=block_size(num_chunks, 1), FORMAT_MAX=FP8.max, SMALLEST=SMALLEST_AMAX, num_warps=4,
    )  # fmt: skip
    return out, scale


_launch = operator("retake::head_quant", Arguments, _head_quant)

run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch)
