"""RMS normalization over the channels of channels-last pictures or videos, and the sums around it: one pass.

    run           silu(gamma * root * s / |s|)   s = x + bias + residual, root = sqrt(C), SiLU on request
    add_residual  y + bias + residual, in place of y
    add_and_norm  both at once, where the sum is needed as well

The bias is that of the convolution in front, which then does not need a pass of its own. `out` may be a part
of a larger buffer, so that a causal convolution finds the frames it looks back on already in front of its
input, and columns and lines of zeros around it. fp32 inside, one rounding at the end, of an `out` of E4M3
after a multiplication by `inverse`, which maps its range. Knows no module and no cache.
B batch . C channels . S positions, all of T, H, W (or H, W) in order
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import block_size, ceil_div, jit, tl, to_e4m3, to_element, why_not
from kernels.fused._operators import entry_points, operator, triton_op, wrap
from kernels.fused.formats import FP8, to_format

MAX_CHANNELS = 4096
"""One program holds whole rows of channels in registers."""
TILE = 4096
"""Elements of a program: several positions where there are few channels."""
SMALLEST_NORM = 1e-12
"""What torch.nn.functional.normalize divides a row of zeros by."""


def supports(target: Target, *, channels: int) -> str | None:
    """None when the functions can use their Triton kernel, else the reason."""
    if channels > MAX_CHANNELS:
        return f"{channels} channels are more than the {MAX_CHANNELS} that fit one program"
    return why_not(target)


@dataclass(frozen=True, slots=True)
class Norm:
    """x [B, C, T, H, W] or [B, C, H, W] of any float dtype, gamma and bias of C elements -> the same shape.

    Fast where x and `residual`, of the shape and dtype of x, are channels-last; other layouts are copied
    first. `out` is channels-last within each batch row and may be a window of a wider buffer; it is returned.
    Without it a dense one is made. It has the dtype of x, or is E4M3 and holds the result times `inverse`
    [1] fp32.
    """

    x: Tensor
    gamma: Tensor
    _: KW_ONLY
    silu: bool
    bias: Tensor | None = None
    residual: Tensor | None = None
    out: Tensor | None = None
    inverse: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """y, residual [B, C, ...] of one shape and dtype -> their sum, in y itself if it is channels-last."""

    y: Tensor
    bias: Tensor | None
    residual: Tensor


@dataclass(frozen=True, slots=True)
class SumAndNorm:
    """`run` of y + bias + residual into `out`, and that sum in place of y, which has to be channels-last."""

    y: Tensor
    bias: Tensor | None
    residual: Tensor
    gamma: Tensor
    _: KW_ONLY
    silu: bool
    out: Tensor
    inverse: Tensor | None = None


def _plain_norm(args: Norm) -> Tensor:
    wide = _sum(args.x, args.bias, args.residual)
    n = _normalized(wide, args.gamma, args.silu)
    return n.to(args.x.dtype) if args.out is None else args.out.copy_(_rounded(n, args.inverse, args.x))


def _plain_sum(args: Sum) -> Tensor:
    return args.y.copy_(_sum(args.y, args.bias, args.residual))


def _plain_both(args: SumAndNorm) -> Tensor:
    wide = _sum(args.y, args.bias, args.residual)
    args.y.copy_(wide)
    return args.out.copy_(_rounded(_normalized(wide, args.gamma, args.silu), args.inverse, args.y))


def _rounded(wide: Tensor, inverse: Tensor | None, like: Tensor) -> Tensor:
    return wide.to(like.dtype) if inverse is None else to_format(wide * inverse, FP8)


def _sum(x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    wide = x.float()
    for term in (None if bias is None else _per_channel(bias, x), residual):
        wide = wide if term is None else wide + term.float()
    return wide


def _normalized(wide: Tensor, gamma: Tensor, silu: bool) -> Tensor:
    n = F.normalize(wide, dim=1, eps=SMALLEST_NORM) * wide.shape[1] ** 0.5 * _per_channel(gamma, wide)
    return F.silu(n) if silu else n


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """fp32 [1, C, 1, ...]"""
    return values.float().reshape(1, -1, *[1] * (like.ndim - 2))


def _check(x: Tensor, tables: tuple[Tensor | None, ...], others: tuple[Tensor | None, ...]) -> None:
    assert x.ndim in (4, 5), f"x {tuple(x.shape)} is not [B, C, H, W] or [B, C, T, H, W]"
    for values in tables:
        assert values is None or values.numel() == x.shape[1], (
            f"{values.numel()} values for {x.shape[1]} channels"
        )
    for other in others:
        assert other is None or (other.shape == x.shape and other.dtype == x.dtype), (
            f"{tuple(other.shape)} {other.dtype} is not {tuple(x.shape)} {x.dtype}"
        )


def _check_out(x: Tensor, out: Tensor | None, inverse: Tensor | None) -> None:
    wanted = x.dtype if inverse is None else FP8.dtype
    found = None if out is None else (tuple(out.shape), out.dtype)
    assert found == (tuple(x.shape), wanted) or (out is None and inverse is None), (
        f"the output {found} is not {tuple(x.shape)} {wanted}"
    )
    assert inverse is None or (inverse.numel() == 1 and inverse.dtype == torch.float32), (
        "inverse is not [1] fp32"
    )


@jit
def _kernel(  # type: ignore[no-untyped-def]
    x_ptr, residual_ptr, bias_ptr, gamma_ptr, inverse_ptr, out_ptr, num_positions, channels,
    x_stride, residual_stride, out_stride, line, out_pitch, height, out_gap,
    HAS_PITCH: tl.constexpr, HAS_GAP: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    KEEP_SUM: tl.constexpr, FP8: tl.constexpr, NORM: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr, ROOT: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """One program: ROWS positions of one batch row, all of their channels. The strides are of the batch.

    With HAS_PITCH the output's lines of `line` positions begin out_pitch elements apart, with HAS_GAP those
    behind every `height` lines out_gap elements later. With KEEP_SUM the sum takes the place of x.
    """
    position32 = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    positions = position32.to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK_C)
    inside = columns < channels
    mask = (positions < num_positions)[:, None] & inside[None, :]
    places = positions[:, None] * channels + columns[None, :]

    x = tl.load(x_ptr + batch * x_stride + places, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    if HAS_RESIDUAL:
        source = residual_ptr + batch * residual_stride + places
        x += tl.load(source, mask=mask, other=0.0).to(tl.float32)
    if KEEP_SUM:
        tl.store(x_ptr + batch * x_stride + places, to_element(x, x_ptr), mask=mask)
    if NORM:
        gamma = tl.load(gamma_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        norm = tl.sqrt(tl.sum(x * x, axis=1))
        x = x * (ROOT / tl.maximum(norm, SMALLEST))[:, None] * gamma[None, :]
        if SILU:
            x = x * tl.sigmoid(x)
    if HAS_PITCH:
        lines = position32 // line  # in 32 bits a division takes fewer instructions
        starts = lines.to(tl.int64) * out_pitch + (position32 - lines * line) * channels
        if HAS_GAP:
            starts += (lines // height).to(tl.int64) * out_gap
        places = starts[:, None] + columns[None, :]
    target = out_ptr + batch * out_stride + places
    if FP8:
        tl.store(target, to_e4m3(x * tl.load(inverse_ptr)), mask=mask)
    else:
        tl.store(target, to_element(x, out_ptr), mask=mask)


def _rows(channels: int) -> tuple[int, int]:
    """(ROWS, BLOCK_C)"""
    block = block_size(channels)
    return max(1, TILE // block), block


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last_3d if x.ndim == 5 else torch.channels_last


def _is_rows(x: Tensor) -> bool:
    """Whether each batch row is densely channels-last, so that one stride describes x."""
    return x[0].movedim(0, -1).is_contiguous()


def _as_rows(x: Tensor) -> Tensor:
    return x if _is_rows(x) else x.contiguous(memory_format=_layout(x))


def _pitch(out: Tensor) -> tuple[int, int, int]:
    """Elements from one line of pixels to the next, lines of a frame, elements that follow those of a frame
    until the next; AssertionError where this does not describe the output."""
    width, channels = out.shape[-1], out.shape[1]
    frames = out[0].movedim(0, -1)  # [T, H, W, C] or [H, W, C]
    height = frames.shape[-3]
    pitch = frames.stride(-3) if height > 1 else width * channels
    step = frames.stride(0) if frames.ndim == 4 and len(frames) > 1 else height * pitch
    line = frames[0, 0] if frames.ndim == 4 else frames[0]
    assert line.is_contiguous() and pitch >= width * channels and step >= height * pitch, (
        f"the output {tuple(out.shape)} has strides {out.stride()}: not channels-last"
    )
    if step > height * pitch and height == 1:
        pitch = step  # frames of one line are lines
    return pitch, height, step - height * pitch


def _start(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gamma: Tensor | None,
    out: Tensor,
    *,
    silu: bool,
    keep_sum: bool,
    inverse: Tensor | None = None,
) -> None:
    """Starts the kernel; arguments that are absent point at x and are not read."""
    batch, channels = x.shape[:2]
    num_positions = x[0, 0].numel()
    assert num_positions < 2**31, f"{tuple(x.shape)} has more positions in a batch row than 32 bits count"
    rows, block = _rows(channels)
    width, (pitch, height, gap) = out.shape[-1], _pitch(out)
    has = {"HAS_BIAS": bias is not None, "HAS_RESIDUAL": residual is not None, "NORM": gamma is not None}
    has |= {"HAS_PITCH": pitch != width * channels or gap > 0, "HAS_GAP": gap > 0, "FP8": inverse is not None}
    bias, gamma, inverse = (x if values is None else values.reshape(-1) for values in (bias, gamma, inverse))
    residual = x if residual is None else _as_rows(residual)
    wrap(_kernel)[(ceil_div(num_positions, rows), batch)](
        x, residual, bias, gamma, inverse, out, num_positions, channels,
        x.stride(0), residual.stride(0), out.stride(0), width, pitch, height, gap,
        KEEP_SUM=keep_sum, SILU=silu, **has,
        ROWS=rows, BLOCK_C=block, ROOT=channels**0.5, SMALLEST=SMALLEST_NORM,
        num_warps=8 if block >= 2048 else 4,
    )  # fmt: skip


def _norm(
    x: Tensor,
    gamma: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    silu: bool,
    inverse: Tensor | None = None,
) -> None:
    """The operator behind `run`: writes `out`, which it needs."""
    _start(_as_rows(x), bias, residual, gamma, out, silu=silu, keep_sum=False, inverse=inverse)


def _add(args: Sum) -> None:
    """The operator behind `add_residual`: overwrites y."""
    _start(args.y, args.bias, args.residual, None, args.y, silu=False, keep_sum=False)


def _both(args: SumAndNorm) -> None:
    """The operator behind `add_and_norm`: overwrites y and writes `out`."""
    y, out = args.y, args.out
    _start(y, args.bias, args.residual, args.gamma, out, silu=args.silu, keep_sum=True, inverse=args.inverse)


_norm_op: Any = triton_op("retake::channel_norm", _norm, writes=("out",))
_add_op = operator("retake::channel_add", Sum, _add, writes=("y",))
_both_op = operator("retake::channel_add_norm", SumAndNorm, _both, writes=("y", "out"))


def _launch_norm(args: Norm) -> Tensor:
    out = args.out
    if out is None:
        out = torch.empty_like(args.x, memory_format=_layout(args.x))
    _norm_op(args.x, args.gamma, args.bias, args.residual, out, args.silu, args.inverse)
    return out


def _launch_sum(args: Sum) -> Tensor:
    y = _as_rows(args.y)
    _add_op(Sum(y, args.bias, args.residual))
    return y


def _launch_both(args: SumAndNorm) -> Tensor:
    assert _is_rows(args.y), (
        f"the sum cannot take the place of {tuple(args.y.shape)}, strides {args.y.stride()}"
    )
    _both_op(args)
    return args.out


def _check_norm(args: Norm) -> None:
    _check(args.x, (args.gamma, args.bias), (args.residual,))
    _check_out(args.x, args.out, args.inverse)


def _check_both(args: SumAndNorm) -> None:
    _check(args.y, (args.bias, args.gamma), (args.residual,))
    _check_out(args.y, args.out, args.inverse)


run, plain, launch = entry_points(Norm, plain=_plain_norm, launch=_launch_norm, check=_check_norm)
add_residual, plain_residual, launch_residual = entry_points(
    Sum,
    plain=_plain_sum,
    launch=_launch_sum,
    check=lambda args: _check(args.y, (args.bias,), (args.residual,)),
)
add_and_norm, plain_both, launch_both = entry_points(
    SumAndNorm, plain=_plain_both, launch=_launch_both, check=_check_both
)
