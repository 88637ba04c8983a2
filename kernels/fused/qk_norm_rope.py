"""RMSNorm over all heads, rotary embedding of interleaved pairs and, for FP8, channels mixed and a static
scale, in one pass over q or k.

`static_scale` needs no look at the data. With u = x / rms(x), the squares of the n = A * D values of u sum to
n or less, so no combination of them whose weights have length 1, a rotated or mixed channel among them,
exceeds max|w| sqrt(n): E4M3 with scale max|w| sqrt(n) / 448 cannot saturate, and a typical |u| = 1 lands at
448 / sqrt(n) (11 for n = 1536, 6 for n = 5120), more than 2**8 above the smallest normal value of the format,
2**-6. Channels are mixed by `formats.mixed`, which q k^T does not see.
B batch . S tokens . A heads . D head size (even; a multiple of 8 for FP8).
"""

import math
from typing import Any

import torch
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import block_size, jit, store_mixed, tl, to_element, triton_op, why_not, wrap
from kernels.fused.formats import FP8, MIXED, to_mixed_fp8

MAX_CHANNELS = 16384


def supports(target: Target, *, heads: int, head_dim: int, quantize: str | None = None) -> str | None:
    """None when `run` can use its Triton kernel, else the reason. quantize: None or "fp8"."""
    if head_dim % 2:
        return f"head size {head_dim} is odd: rotary embedding turns pairs"
    if block_size(heads, 1) * block_size(head_dim, 2) > MAX_CHANNELS:
        return f"{heads} heads of {head_dim} exceed the {MAX_CHANNELS} values that fit one program"
    if quantize not in (None, "fp8"):
        return f"q and k are quantized to fp8 only, not to {quantize}"
    if quantize is not None and head_dim % (2 * MIXED):
        return f"head size {head_dim} is not a multiple of {2 * MIXED}: pairs turn within quarters of a head"
    return why_not(target, quantize)


def static_scale(weight: Tensor, heads: int) -> Tensor:
    """The fp32 scale of each head [A] that no normalised, rotated and mixed value exceeds; weight [A * D]."""
    largest = weight.float().abs().reshape(heads, -1).amax(dim=1)
    bound = math.sqrt(weight.numel()) * largest
    return bound.clamp_min(1e-12) / FP8.max


def run(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    heads: int,
    eps: float,
    q_scale: Tensor | None = None,
    k_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """q and k of a self-attention, each as `run_one` does it."""
    return (
        run_one(q, q_weight, cos, sin, heads=heads, eps=eps, scale=q_scale),
        run_one(k, k_weight, cos, sin, heads=heads, eps=eps, scale=k_scale),
    )


def run_one(
    x: Tensor,
    weight: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    heads: int,
    eps: float,
    scale: Tensor | None = None,
) -> Tensor:
    """x [B, S, A * D] -> [B, S, A, D] contiguous, in the dtype of x, or mixed and FP8 E4M3 for a `scale` [A].

    x has a contiguous last dim, any other strides (a slice of a merged QKV product). weight [A * D]. cos, sin
    [1, S, 1, D] fp32 as diffusers' WanRotaryPosEmbed gives them (each value twice), contiguous; None: no
    rotation. On the CPU this is `plain`.
    """
    assert (cos is None) == (sin is None), "cos and sin come together"
    assert x.ndim == 3 and x.shape[-1] == weight.numel(), f"x {tuple(x.shape)}, weight {tuple(weight.shape)}"
    assert x.shape[-1] % heads == 0, f"{x.shape[-1]} channels do not divide into {heads} heads"
    if not x.is_cuda:
        return plain(x, weight, cos, sin, heads=heads, eps=eps, scale=scale)
    return launch(x, weight, cos, sin, heads, eps, scale)


def plain(
    x: Tensor,
    weight: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    heads: int,
    eps: float,
    scale: Tensor | None = None,
) -> Tensor:
    """`run_one` in plain torch, fp32 until the last rounding: the path of the CPU and the oracle of the
    kernel."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight.float()
    out = wide.reshape(*x.shape[:-1], heads, -1)  # [B, S, A, D]
    if cos is not None and sin is not None:
        even, odd = out.unflatten(-1, (-1, 2)).unbind(-1)
        c, s = cos[..., 0::2], sin[..., 1::2]
        out = torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2)
    if scale is None:
        return out.to(x.dtype)
    return to_mixed_fp8(out, scale[:, None])


@jit
def _kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, cos_ptr, sin_ptr, out_ptr,
    num_tokens, heads, head_dim, stride_b, stride_s, EPS: tl.constexpr,
    ROTATED: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: one token, all heads as a tile [BLOCK_A, BLOCK_D], so that its angles are read once."""
    token = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    head = tl.arange(0, BLOCK_A)
    dim = tl.arange(0, BLOCK_D)
    mask = (head < heads)[:, None] & (dim < head_dim)[None, :]
    offsets = head[:, None] * head_dim + dim[None, :]

    x = tl.load(x_ptr + batch * stride_b + token * stride_s + offsets, mask=mask, other=0.0).to(tl.float32)
    mean_square = tl.sum(tl.sum(x * x, axis=1), axis=0) / (heads * head_dim)
    x = _turned(
        x * (1.0 / tl.sqrt(mean_square + EPS)), weight_ptr, offsets, mask, cos_ptr, sin_ptr,
        token * head_dim, head_dim, ROTATED, BLOCK_A, BLOCK_D,
    )  # fmt: skip
    target = out_ptr + (batch * num_tokens + token) * heads * head_dim + offsets
    tl.store(target, to_element(x, out_ptr), mask=mask)


@jit
def _quantizing_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, cos_ptr, sin_ptr, scale_ptr, out_ptr,
    num_tokens, heads, head_dim, stride_b, stride_s, EPS: tl.constexpr,
    ROTATED: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: one token, all heads as four tiles [BLOCK_A, BLOCK_D], the quarters of a head that are
    mixed: each thread then holds what it adds, and nothing goes through shared memory."""
    token = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    quarter = head_dim // 4
    head = tl.arange(0, BLOCK_A)
    dim = tl.arange(0, BLOCK_D)
    mask = (head < heads)[:, None] & (dim < quarter)[None, :]
    offsets = head[:, None] * head_dim + dim[None, :]

    row = x_ptr + batch * stride_b + token * stride_s + offsets
    x0 = tl.load(row, mask=mask, other=0.0).to(tl.float32)
    x1 = tl.load(row + quarter, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(row + 2 * quarter, mask=mask, other=0.0).to(tl.float32)
    x3 = tl.load(row + 3 * quarter, mask=mask, other=0.0).to(tl.float32)
    total = tl.sum(tl.sum(x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3, axis=1), axis=0)
    inverse = 1.0 / tl.sqrt(total / (heads * head_dim) + EPS)

    angle = token * head_dim
    x0 = _turned(
        x0 * inverse, weight_ptr, offsets, mask, cos_ptr, sin_ptr, angle, quarter, ROTATED, BLOCK_A, BLOCK_D
    )
    x1 = _turned(
        x1 * inverse, weight_ptr + quarter, offsets, mask, cos_ptr, sin_ptr, angle + quarter, quarter,
        ROTATED, BLOCK_A, BLOCK_D,
    )  # fmt: skip
    x2 = _turned(
        x2 * inverse, weight_ptr + 2 * quarter, offsets, mask, cos_ptr, sin_ptr, angle + 2 * quarter, quarter,
        ROTATED, BLOCK_A, BLOCK_D,
    )  # fmt: skip
    x3 = _turned(
        x3 * inverse, weight_ptr + 3 * quarter, offsets, mask, cos_ptr, sin_ptr, angle + 3 * quarter, quarter,
        ROTATED, BLOCK_A, BLOCK_D,
    )  # fmt: skip

    scale = tl.load(scale_ptr + head, mask=head < heads, other=1.0)
    inverse_scale = (1.0 / scale)[:, None]
    target = out_ptr + (batch * num_tokens + token) * heads * head_dim + offsets
    store_mixed(target, quarter, x0, x1, x2, x3, inverse_scale, mask)


@jit
def _turned(  # type: ignore[no-untyped-def]
    x, weight_ptr, offsets, mask, cos_ptr, sin_ptr, angle, size,
    ROTATED: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The tile x [BLOCK_A, BLOCK_D] times its weights, its pairs turned; `angle` is where its own begin."""
    x = x * tl.load(weight_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    if ROTATED:
        half: tl.constexpr = BLOCK_D // 2
        pair = tl.arange(0, half)
        known = 2 * pair < size
        c = tl.load(cos_ptr + angle + 2 * pair, mask=known, other=1.0).to(tl.float32)[None, :]
        s = tl.load(sin_ptr + angle + 2 * pair + 1, mask=known, other=0.0).to(tl.float32)[None, :]
        even, odd = tl.split(tl.reshape(x, (BLOCK_A, half, 2)))
        x = tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), (BLOCK_A, BLOCK_D))
    return x


def _qk_norm_rope(
    x: Tensor,
    weight: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    heads: int,
    eps: float,
    scale: Tensor | None,
) -> Tensor:
    """The operator. Absent angles point at x and are not read."""
    batch, num_tokens, channels = x.shape
    head_dim = channels // heads
    assert x.stride(-1) == 1 and weight.is_contiguous(), f"strides {x.stride()}, {weight.stride()}"
    for table in (cos, sin):
        assert table is None or (table.is_contiguous() and table.numel() == num_tokens * head_dim), (
            f"angles {None if table is None else tuple(table.shape)} for {num_tokens} tokens of {head_dim}"
        )
    out = torch.empty(
        (batch, num_tokens, heads, head_dim), dtype=x.dtype if scale is None else FP8.dtype, device=x.device
    )
    angles = tuple(x if table is None else table for table in (cos, sin))
    sizes = (num_tokens, heads, head_dim, x.stride(0), x.stride(1))
    block_a, grid = block_size(heads, 1), (num_tokens, batch)
    if scale is None:
        block_d = block_size(head_dim, 2)
        wrap(_kernel)[grid](
            x, weight, *angles, out, *sizes, EPS=eps, ROTATED=cos is not None,
            BLOCK_A=block_a, BLOCK_D=block_d, num_warps=_num_warps(block_a * block_d),
        )  # fmt: skip
    else:
        assert head_dim % (2 * MIXED) == 0, f"head size {head_dim}"
        block_d = block_size(head_dim // MIXED, 2)
        wrap(_quantizing_kernel)[grid](
            x, weight, *angles, scale, out, *sizes, EPS=eps, ROTATED=cos is not None,
            BLOCK_A=block_a, BLOCK_D=block_d, num_warps=_num_warps(MIXED * block_a * block_d),
        )  # fmt: skip
    return out


def _num_warps(num_values: int) -> int:
    return 4 if num_values <= 4096 else 8


_op: Any = triton_op("retake::qk_norm_rope", _qk_norm_rope)


def launch(
    x: Tensor,
    weight: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    heads: int,
    eps: float,
    scale: Tensor | None,
) -> Tensor:
    """The Triton path of `run_one`, also under the interpreter."""
    out: Tensor = _op(x, weight, cos, sin, heads, eps, scale)
    return out
