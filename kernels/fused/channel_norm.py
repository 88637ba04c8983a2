"""RMS normalization over the channels of channels-last pictures or videos, and the sums around it: one pass.

    run           silu(gamma * root * (x + bias) / |x + bias|)      root = sqrt(C), without SiLU on request
    add_residual  (y + bias) + residual, in place of y

The bias is that of the convolution in front, which then does not need a pass of its own. `out` may be a part
of a larger buffer, so that a causal convolution finds the frames it looks back on already in front of its
input, and columns of zeros beside it. fp32 inside, one rounding at the end. Knows no module and no cache.
B batch · C channels · S positions, all of T, H, W (or H, W) in order
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.fused._jit import block_size, ceil_div, jit, tl, to_element, triton_op, why_not, wrap
from kernels.problem import Target

MAX_CHANNELS = 4096
"""One program holds whole rows of channels in registers."""
TILE = 4096
"""Elements of a program: several positions where there are few channels."""
SMALLEST_NORM = 1e-12
"""What torch.nn.functional.normalize divides a row of zeros by."""


def supports(target: Target, *, channels: int) -> str | None:
    """None when `run` and `add_residual` can use their Triton kernel, else the reason."""
    if channels > MAX_CHANNELS:
        return f"{channels} channels are more than the {MAX_CHANNELS} that fit one program"
    return why_not(target)


def run(
    x: Tensor, gamma: Tensor, *, silu: bool, bias: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """x [B, C, T, H, W] or [B, C, H, W] of any float dtype, gamma and bias of C elements -> the same shape.

    Fast where x is channels-last; other layouts are copied first. `out` has the shape and dtype of x, is
    channels-last within each batch row, between its lines of pixels may lie others of its buffer, and it is
    returned; without it a dense one is made. On the CPU this is `plain`.
    """
    _check(x, (gamma, bias), out)
    if not x.is_cuda:
        result = plain(x, gamma, silu=silu, bias=bias)
        return result if out is None else out.copy_(result)
    return launch(x, gamma, silu, bias, out)


def plain(x: Tensor, gamma: Tensor, *, silu: bool, bias: Tensor | None = None) -> Tensor:
    """The same in plain torch."""
    wide = x.float() if bias is None else x.float() + _per_channel(bias, x)
    n = F.normalize(wide, dim=1, eps=SMALLEST_NORM) * x.shape[1] ** 0.5 * _per_channel(gamma, x)
    return (F.silu(n) if silu else n).to(x.dtype)


def add_residual(y: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """y, residual [B, C, ...] of one shape and dtype -> their sum, in y itself if it is channels-last."""
    _check(y, (bias,), residual)
    if not y.is_cuda:
        return y.copy_(plain_residual(y, bias, residual))
    return launch_residual(y, bias, residual)


def plain_residual(y: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """The same in plain torch, out of place."""
    wide = y.float() if bias is None else y.float() + _per_channel(bias, y)
    return (wide + residual.float()).to(y.dtype)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """fp32 [1, C, 1, ...]"""
    return values.float().reshape(1, -1, *[1] * (like.ndim - 2))


def _check(x: Tensor, tables: tuple[Tensor | None, ...], other: Tensor | None) -> None:
    assert x.ndim in (4, 5), f"x {tuple(x.shape)} is not [B, C, H, W] or [B, C, T, H, W]"
    for values in tables:
        assert values is None or values.numel() == x.shape[1], (
            f"{values.numel()} values for {x.shape[1]} channels"
        )
    assert other is None or (other.shape == x.shape and other.dtype == x.dtype), (
        f"{tuple(other.shape)} {other.dtype} is not {tuple(x.shape)} {x.dtype}"
    )


@jit
def _kernel(  # type: ignore[no-untyped-def]
    x_ptr, residual_ptr, bias_ptr, gamma_ptr, out_ptr, num_positions, channels,
    x_stride, residual_stride, out_stride, line, out_pitch,
    HAS_PITCH: tl.constexpr, HAS_BIAS: tl.constexpr, NORM: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr, ROOT: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """One program: ROWS positions of one batch row, all of their channels. The strides are of the batch.

    With HAS_PITCH the output's lines of `line` positions begin out_pitch elements apart.
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
    if NORM:
        gamma = tl.load(gamma_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        norm = tl.sqrt(tl.sum(x * x, axis=1))
        x = x * (ROOT / tl.maximum(norm, SMALLEST))[:, None] * gamma[None, :]
        if SILU:
            x = x * tl.sigmoid(x)
    else:
        source = residual_ptr + batch * residual_stride + places
        x += tl.load(source, mask=mask, other=0.0).to(tl.float32)
    if HAS_PITCH:
        lines = position32 // line  # in 32 bits a division takes fewer instructions
        starts = lines.to(tl.int64) * out_pitch + (position32 - lines * line) * channels
        places = starts[:, None] + columns[None, :]
    tl.store(out_ptr + batch * out_stride + places, to_element(x, out_ptr), mask=mask)


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


def _pitch(out: Tensor) -> int:
    """Elements from one line of pixels to the next; AssertionError if a line has gaps, or one is farther."""
    width, channels = out.shape[-1], out.shape[1]
    try:
        lines = out[0].movedim(0, -1).view(-1, width, channels)
    except RuntimeError:
        lines = None
    assert lines is not None and lines[0].is_contiguous(), (
        f"the output {tuple(out.shape)} has strides {out.stride()}: not channels-last"
    )
    return lines.stride(0) if len(lines) > 1 else width * channels


def _start(
    x: Tensor, residual: Tensor, bias: Tensor | None, gamma: Tensor | None, out: Tensor, silu: bool
) -> None:
    """Starts the kernel; arguments that are absent point at x and are not read."""
    batch, channels = x.shape[:2]
    num_positions = x[0, 0].numel()
    assert num_positions < 2**31, f"{tuple(x.shape)} has more positions in a batch row than 32 bits count"
    rows, block = _rows(channels)
    width, pitch = out.shape[-1], _pitch(out)
    bias, gamma = (None if values is None else values.reshape(-1) for values in (bias, gamma))
    wrap(_kernel)[(ceil_div(num_positions, rows), batch)](
        x, residual, x if bias is None else bias, x if gamma is None else gamma, out, num_positions, channels,
        x.stride(0), residual.stride(0), out.stride(0), width, pitch,
        HAS_PITCH=pitch != width * channels, HAS_BIAS=bias is not None, NORM=gamma is not None, SILU=silu,
        ROWS=rows, BLOCK_C=block, ROOT=channels**0.5, SMALLEST=SMALLEST_NORM,
        num_warps=8 if block >= 2048 else 4,
    )  # fmt: skip


def _norm(x: Tensor, gamma: Tensor, bias: Tensor | None, out: Tensor, silu: bool) -> None:
    """The operator behind `run`: writes `out`."""
    x = _as_rows(x)
    _start(x, x, bias, gamma, out, silu)


def _add(y: Tensor, bias: Tensor | None, residual: Tensor) -> None:
    """The operator behind `add_residual`: overwrites y."""
    _start(y, _as_rows(residual), bias, None, y, False)


_norm_op: Any = triton_op("retake::channel_norm", _norm, writes=("out",))
_add_op: Any = triton_op("retake::channel_add", _add, writes=("y",))


def launch(x: Tensor, gamma: Tensor, silu: bool, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """The Triton path of `run`, also under the interpreter."""
    if out is None:
        out = torch.empty_like(x, memory_format=_layout(x))
    _norm_op(x, gamma, bias, out, silu)
    return out


def launch_residual(y: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """The Triton path of `add_residual`, also under the interpreter."""
    y = _as_rows(y)
    _add_op(y, bias, residual)
    return y
