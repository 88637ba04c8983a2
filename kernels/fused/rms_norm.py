"""Residual, RMSNorm (arXiv 1910.07467) and 8-bit quantization in one pass over the tokens.

    h_new = h + y                    fp32, rounded to the dtype of h; the residual stream
    n     = h_new / rms(h_new) * weight, in fp32
    n8    = n / n_scale              optional, one fp32 scale per token

Knows no block and no module. B batch . S tokens . C channels.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import jit, larger, largest, scale_of, store_row, tl, to_element, two_tiles, why_not
from kernels.fused._operators import entry_points, operator, wrap
from kernels.fused.formats import SMALLEST_AMAX, format_of, quantize_rows

MAX_CHANNELS = 16384
"""One program holds a whole row in registers."""


def supports(target: Target, *, channels: int, quantize: str | None = None) -> str | None:
    """None when `run` can use its Triton kernel, else the reason."""
    if channels > MAX_CHANNELS:
        return f"{channels} channels are more than the {MAX_CHANNELS} that fit one program"
    return why_not(target, quantize)


@dataclass(frozen=True, slots=True)
class Arguments:
    """-> (h_new [B, S, C], n [B, S, C], n_scale [B, S, 1] fp32 or None); h_new is h itself without y.

    h, y [B, S, C] fp32, fp16 or bf16, last dim contiguous, any other strides; weight [C] contiguous. n has
    the dtype of h, or that of the format ("fp8", "int8").
    """

    h: Tensor
    y: Tensor | None
    weight: Tensor
    _: KW_ONLY
    eps: float
    quantize: str | None = None


Outputs = tuple[Tensor, Tensor, Tensor | None]


def _check(args: Arguments) -> None:
    h, y, weight = args.h, args.y, args.weight
    assert y is None or y.shape == h.shape, f"y {tuple(y.shape)} is not h {tuple(h.shape)}"
    assert weight.shape == h.shape[-1:], f"weight {tuple(weight.shape)} for h {tuple(h.shape)}"


def _plain(args: Arguments) -> Outputs:
    h_new = args.h if args.y is None else (args.h.float() + args.y.float()).to(args.h.dtype)
    wide = h_new.float()
    n = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + args.eps) * args.weight.float()
    if args.quantize is None:
        return h_new, n.to(args.h.dtype), None
    return h_new, *quantize_rows(n, format_of(args.quantize))


@jit
def _residual(h, y, h_new, columns, CHANNELS: tl.constexpr, HAS_Y: tl.constexpr):  # type: ignore[no-untyped-def]
    """fp32: a piece of one row of the residual stream. h, y, h_new point at the row."""
    inside = columns < CHANNELS
    x = tl.load(h + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_Y:
        step = tl.load(y + columns, mask=inside, other=0.0).to(tl.float32)
        # The norm reads what the next block will read: the rounded residual stream.
        rounded = to_element(x + step, h_new)
        tl.store(h_new + columns, rounded, mask=inside)
        x = rounded.to(tl.float32)
    return x


@jit
def _kernel(  # type: ignore[no-untyped-def]
    h_ptr, y_ptr, weight_ptr, h_new_ptr, n_ptr, n_scale_ptr,
    num_tokens, h_stride_b, h_stride_s, y_stride_b, y_stride_s,
    HAS_Y: tl.constexpr, FORMAT: tl.constexpr, CHANNELS: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr,
    EPS: tl.constexpr, FORMAT_MAX: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """One program: one row, in a tile of FIRST and one of SECOND columns (0: no second tile)."""
    token = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    row = batch * num_tokens + token
    h = h_ptr + batch * h_stride_b + token * h_stride_s
    y = y_ptr + batch * y_stride_b + token * y_stride_s
    h_new = h_new_ptr + row * CHANNELS
    a = tl.arange(0, FIRST)
    n_a = _residual(h, y, h_new, a, CHANNELS, HAS_Y)
    square = tl.sum(n_a * n_a, axis=0)
    if SECOND > 0:
        b = FIRST + tl.arange(0, SECOND)
        n_b = _residual(h, y, h_new, b, CHANNELS, HAS_Y)
        square += tl.sum(n_b * n_b, axis=0)
    inverse_rms = 1.0 / tl.sqrt(square / CHANNELS + EPS)
    n_a = n_a * inverse_rms * tl.load(weight_ptr + a, mask=a < CHANNELS, other=0.0).to(tl.float32)
    if SECOND > 0:
        n_b = n_b * inverse_rms * tl.load(weight_ptr + b, mask=b < CHANNELS, other=0.0).to(tl.float32)
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


def _rms_norm(args: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """The operator: (h_new, empty without y; n; n_scale, empty without a format)."""
    h, y = args.h, args.y
    batch, num_tokens, channels = h.shape
    for tensor in (h, y, args.weight):
        assert tensor is None or tensor.stride(-1) == 1, f"last dim must be contiguous: {tensor.stride()}"
    fmt = None if args.quantize is None else format_of(args.quantize)
    h_new = torch.empty(h.shape if y is not None else (0,), dtype=h.dtype, device=h.device)
    n = torch.empty(h.shape, dtype=h.dtype if fmt is None else fmt.dtype, device=h.device)
    scale_shape = (0,) if fmt is None else (batch, num_tokens, 1)
    n_scale = torch.empty(scale_shape, dtype=torch.float32, device=h.device)
    first, second = two_tiles(channels)
    wrap(_kernel)[(num_tokens, batch)](
        h, h if y is None else y, args.weight, h_new, n, n_scale, num_tokens, h.stride(0), h.stride(1),
        *((0, 0) if y is None else (y.stride(0), y.stride(1))),
        HAS_Y=y is not None, FORMAT=fmt.code if fmt else 0, CHANNELS=channels, FIRST=first, SECOND=second,
        EPS=args.eps, FORMAT_MAX=fmt.max if fmt else 1.0, SMALLEST=SMALLEST_AMAX,
        num_warps=4 if channels <= 2048 else 8 if channels <= 8192 else 16,
    )  # fmt: skip
    return h_new, n, n_scale


_op = operator("retake::rms_norm", Arguments, _rms_norm)


def _launch(args: Arguments) -> Outputs:
    h_new, n, n_scale = _op(args)
    return (args.h if args.y is None else h_new), n, (None if args.quantize is None else n_scale)


run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
