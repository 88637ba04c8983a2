"""Residual, LayerNorm, modulation (adaLN, arXiv 2212.09748) and 8-bit quantization in one pass.

    h_new = h + gate * y             fp32, rounded to the dtype of h; the residual stream
    n     = LayerNorm(h_new) in fp32, then (1 + scale) * n + shift, or * weight + bias, or as it is
    n8    = n / n_scale              optional, one fp32 scale per token

Modulation comes as one row per distinct timestep, not per token: tokens before `split` take row 0, the others
the last row. Knows no block and no module. B batch . S tokens . C channels . R rows of modulation (1 or 2).
"""

from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import (
    ceil_div,
    jit,
    larger,
    largest,
    scale_of,
    store_row,
    tl,
    to_element,
    two_tiles,
    why_not,
)
from kernels.fused._operators import entry_points, operator, wrap
from kernels.fused.formats import SMALLEST_AMAX, format_of, quantize_rows

MAX_CHANNELS = 16384
"""One program holds a whole row in registers."""

TOKENS = 4
"""Rows of one program, which share one read of their modulation."""


def supports(target: Target, *, channels: int, quantize: str | None = None) -> str | None:
    """None when `run` can use its Triton kernel, else the reason."""
    if channels > MAX_CHANNELS:
        return f"{channels} channels are more than the {MAX_CHANNELS} that fit one program"
    return why_not(target, quantize)


@dataclass(frozen=True, slots=True)
class Arguments:
    """-> (h_new [B, S, C], n [B, S, C], n_scale [B, S, 1] fp32 or None); h_new is h itself without y.

    h, y [B, S, C] fp32, fp16 or bf16, last dim contiguous, any other strides. gate, scale, shift [B or 1, R,
    C], last dim contiguous. weight, bias [C]. n has the dtype of h, or that of the format ("fp8", "int8").
    """

    h: Tensor
    y: Tensor | None = None
    gate: Tensor | None = None
    _: KW_ONLY
    scale: Tensor | None = None
    shift: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    split: int = 0
    eps: float
    quantize: str | None = None


Outputs = tuple[Tensor, Tensor, Tensor | None]


def _check(args: Arguments) -> None:
    batch, num_tokens, channels = args.h.shape
    assert 0 <= args.split <= num_tokens, f"split {args.split} of {num_tokens} tokens"
    assert (args.scale is None) == (args.shift is None), "scale and shift come together"
    assert (args.weight is None) == (args.bias is None), "weight and bias come together"
    assert args.scale is None or args.weight is None, "a norm is modulated or affine, not both"
    assert args.gate is None or args.y is not None, "a gate without a residual y"
    assert args.y is None or args.y.shape == args.h.shape, (
        f"y {tuple(args.y.shape)} is not h {tuple(args.h.shape)}"
    )
    for rows in (args.gate, args.scale, args.shift):
        if rows is not None:
            assert rows.ndim == 3 and rows.shape[0] in (1, batch) and rows.shape[2] == channels, (
                f"modulation {tuple(rows.shape)} for h {tuple(args.h.shape)}: [B, 1 or 2, C] is needed"
            )
            assert rows.shape[1] in (1, 2), f"{rows.shape[1]} rows of modulation, 1 or 2 are allowed"


def _plain(args: Arguments) -> Outputs:
    h, num_tokens = add_gated(args.h, args.y, args.gate, args.split), args.h.shape[1]
    weight, bias = (None if table is None else table.float() for table in (args.weight, args.bias))
    n = F.layer_norm(h.float(), h.shape[-1:], weight, bias, args.eps)
    if args.scale is not None and args.shift is not None:
        scale, shift = (per_token(rows, args.split, num_tokens) for rows in (args.scale, args.shift))
        n = n * (1 + scale) + shift
    if args.quantize is None:
        return h, n.to(h.dtype), None
    return h, *quantize_rows(n, format_of(args.quantize))


def add_gated(h: Tensor, y: Tensor | None, gate: Tensor | None, split: int) -> Tensor:
    """h + gate * y in plain torch, rounded to the dtype of h."""
    if y is None:
        return h
    step = y.float() if gate is None else y.float() * per_token(gate, split, h.shape[1])
    return (h.float() + step).to(h.dtype)


def per_token(rows: Tensor, split: int, num_tokens: int) -> Tensor:
    """[B, R, C] -> fp32 [B, 1 or S, C]: row 0 for the first `split` tokens, the last row for the others."""
    rows = rows.float()
    if rows.shape[1] == 1:
        return rows
    first = rows[:, :1].expand(-1, split, -1)
    return torch.cat([first, rows[:, 1:].expand(-1, num_tokens - split, -1)], dim=1)


@jit
def _row(  # type: ignore[no-untyped-def]
    ptr, stride_b, stride_r, num_rows, batch, late, columns, CHANNELS: tl.constexpr, PRESENT: tl.constexpr
):
    """fp32: the row of a table for one side of `split`, at some columns. Absent: not read."""
    if PRESENT:
        row = tl.where(late, num_rows - 1, 0)
        source = ptr + batch * stride_b + row * stride_r + columns
        return tl.load(source, mask=columns < CHANNELS, other=0.0).to(tl.float32)
    else:
        return columns


@jit
def _residual(  # type: ignore[no-untyped-def]
    h, y, gate, h_new, columns, CHANNELS: tl.constexpr, HAS_Y: tl.constexpr, HAS_GATE: tl.constexpr
):
    """fp32: a piece of one row of the residual stream. h, y, h_new point at the row."""
    inside = columns < CHANNELS
    x = tl.load(h + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_Y:
        step = tl.load(y + columns, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            step = step * gate
        # The norm reads what the next block will read: the rounded residual stream.
        rounded = to_element(x + step, h_new)
        tl.store(h_new + columns, rounded, mask=inside)
        x = rounded.to(tl.float32)
    return x


@jit
def _kernel(  # type: ignore[no-untyped-def]
    h_ptr, y_ptr, gate_ptr, factor_ptr, shift_ptr, h_new_ptr, n_ptr, n_scale_ptr,
    num_tokens, split, num_first_blocks, h_stride_b, h_stride_s, y_stride_b, y_stride_s,
    gate_stride_b, gate_stride_r, gate_rows, factor_stride_b, factor_stride_r, factor_rows,
    shift_stride_b, shift_stride_r, shift_rows,
    HAS_Y: tl.constexpr, HAS_GATE: tl.constexpr, HAS_FACTOR: tl.constexpr, PLUS_ONE: tl.constexpr,
    NORM: tl.constexpr, FORMAT: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr,
    EPS: tl.constexpr, FORMAT_MAX: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """One program: TOKENS rows of one side of `split`, one after the other, under one row of modulation.

    A row is a tile of FIRST and one of SECOND columns (0: no second tile). One row at a time keeps the tables
    in the layout of the rows: a tile of several rows would move them through shared memory.
    """
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    late = block >= num_first_blocks
    start = tl.where(late, split + (block - num_first_blocks) * TOKENS, block * TOKENS)
    count = tl.minimum(tl.where(late, num_tokens, split) - start, TOKENS)
    start = start.to(tl.int64)

    a = tl.arange(0, FIRST)
    gate_a = _row(gate_ptr, gate_stride_b, gate_stride_r, gate_rows, batch, late, a, CHANNELS, HAS_GATE)
    factor_a = _row(
        factor_ptr, factor_stride_b, factor_stride_r, factor_rows, batch, late, a, CHANNELS, HAS_FACTOR
    )
    shift_a = _row(
        shift_ptr, shift_stride_b, shift_stride_r, shift_rows, batch, late, a, CHANNELS, HAS_FACTOR
    )
    if PLUS_ONE:
        factor_a = 1.0 + factor_a
    if SECOND > 0:
        b = FIRST + tl.arange(0, SECOND)
        gate_b = _row(gate_ptr, gate_stride_b, gate_stride_r, gate_rows, batch, late, b, CHANNELS, HAS_GATE)
        factor_b = _row(
            factor_ptr, factor_stride_b, factor_stride_r, factor_rows, batch, late, b, CHANNELS, HAS_FACTOR
        )
        shift_b = _row(
            shift_ptr, shift_stride_b, shift_stride_r, shift_rows, batch, late, b, CHANNELS, HAS_FACTOR
        )
        if PLUS_ONE:
            factor_b = 1.0 + factor_b

    for i in range(0, count):
        h = h_ptr + batch * h_stride_b + (start + i) * h_stride_s
        y = y_ptr + batch * y_stride_b + (start + i) * y_stride_s
        row = batch * num_tokens + start + i
        h_new = h_new_ptr + row * CHANNELS
        x_a = _residual(h, y, gate_a, h_new, a, CHANNELS, HAS_Y, HAS_GATE)
        if SECOND > 0:
            x_b = _residual(h, y, gate_b, h_new, b, CHANNELS, HAS_Y, HAS_GATE)
        if NORM:
            total = tl.sum(x_a, axis=0)
            if SECOND > 0:
                total += tl.sum(x_b, axis=0)
            mean = total / CHANNELS
            n_a = tl.where(a < CHANNELS, x_a - mean, 0.0)
            square = tl.sum(n_a * n_a, axis=0)
            if SECOND > 0:
                n_b = tl.where(b < CHANNELS, x_b - mean, 0.0)
                square += tl.sum(n_b * n_b, axis=0)
            inverse_deviation = 1.0 / tl.sqrt(square / CHANNELS + EPS)
            n_a = n_a * inverse_deviation
            if HAS_FACTOR:
                n_a = n_a * factor_a + shift_a  # columns past the end stay zero: their shift is
            if SECOND > 0:
                n_b = n_b * inverse_deviation
                if HAS_FACTOR:
                    n_b = n_b * factor_b + shift_b
            inverse = 1.0
            if FORMAT > 0:
                amax = largest(n_a, 0)
                if SECOND > 0:
                    amax = larger(amax, largest(n_b, 0))
                n_scale = scale_of(amax, FORMAT_MAX, SMALLEST)
                tl.store(n_scale_ptr + row, n_scale)
                inverse = 1.0 / n_scale
            store_row(n_a, inverse, n_ptr + row * CHANNELS, a, CHANNELS, FORMAT)
            if SECOND > 0:
                store_row(n_b, inverse, n_ptr + row * CHANNELS, b, CHANNELS, FORMAT)


def _strides(rows: Tensor | None, batch: int) -> tuple[int, int, int]:
    """(stride of the batch, stride of the rows, number of rows) of a table of modulation."""
    if rows is None:
        return 0, 0, 1
    return (rows.stride(0) if rows.shape[0] == batch else 0), rows.stride(1), rows.shape[1]


def start(args: Arguments, outputs: tuple[Tensor, Tensor, Tensor], *, norm: bool) -> None:
    """Starts the kernel; all of its arguments that are absent point at h and are not read."""
    h, y, split = args.h, args.y, args.split
    batch, num_tokens, channels = h.shape
    tables = (args.gate, args.scale, args.shift)
    for tensor in (h, y, *tables, args.weight, args.bias):
        assert tensor is None or tensor.stride(-1) == 1, f"last dim must be contiguous: {tensor.stride()}"
    if all(rows is None or rows.shape[1] == 1 for rows in tables):
        split = 0
    gate, factor, shift = tables
    modulated = factor is not None
    if not modulated:  # weight and bias are tables of one row for all
        affine = (args.weight, args.bias)
        factor, shift = (None if values is None else values.view(1, 1, channels) for values in affine)
    num_first = ceil_div(split, TOKENS)
    num_blocks = num_first + ceil_div(num_tokens - split, TOKENS)
    fmt = None if args.quantize is None else format_of(args.quantize)
    first, second = two_tiles(channels)
    pointers = [h if tensor is None else tensor for tensor in (y, gate, factor, shift)]
    strides = [value for rows in (gate, factor, shift) for value in _strides(rows, batch)]
    wrap(_kernel)[(num_blocks, batch)](
        h, *pointers, *outputs, num_tokens, split, num_first,
        h.stride(0), h.stride(1), *((y.stride(0), y.stride(1)) if y is not None else (0, 0)), *strides,
        HAS_Y=y is not None, HAS_GATE=gate is not None, HAS_FACTOR=factor is not None, PLUS_ONE=modulated,
        NORM=norm, FORMAT=fmt.code if fmt else 0, TOKENS=TOKENS, CHANNELS=channels, FIRST=first,
        SECOND=second, EPS=args.eps, FORMAT_MAX=fmt.max if fmt else 1.0, SMALLEST=SMALLEST_AMAX,
        num_warps=4 if channels <= 2048 else 8 if channels <= 8192 else 16,
    )  # fmt: skip


def _residual_norm(args: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """The operator: (h_new, empty without y; n; n_scale, empty without a format)."""
    h, quantize = args.h, args.quantize
    h_new = h.new_empty(h.shape if args.y is not None else (0,))
    dtype = h.dtype if quantize is None else format_of(quantize).dtype
    n = torch.empty(h.shape, dtype=dtype, device=h.device)
    scale_shape = (0,) if quantize is None else (*h.shape[:-1], 1)
    n_scale = torch.empty(scale_shape, dtype=torch.float32, device=h.device)
    start(args, (h_new, n, n_scale), norm=True)
    return h_new, n, n_scale


_op = operator("retake::residual_norm", Arguments, _residual_norm)


def _launch(args: Arguments) -> Outputs:
    h_new, n, n_scale = _op(args)
    return (args.h if args.y is None else h_new), n, (None if args.quantize is None else n_scale)


run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
