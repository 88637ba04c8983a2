"""RMSNorm over all heads, rotary embedding (RoPE, arXiv 2104.09864) of interleaved pairs and, for FP8, a
Hadamard rotation and a static scale, in one pass over q or k.

`static_scale` needs no look at the data. With u = x / rms(x), the squares of the n = A * D values of u sum to
n or less, so no combination of them whose weights have length 1, as both rotations make them, exceeds
max|w| sqrt(n): E4M3 with scale max|w| sqrt(n) / 448 cannot saturate, and a typical |u| = 1 lands at
448 / sqrt(n) (11 for n = 1536, 6 for n = 5120), more than 2**8 above the smallest normal value of the format,
2**-6. The Hadamard rotation, `formats.hadamard`, leaves q k^T as it is.
B batch . S tokens . A heads . D head size (even; a multiple of 8 for FP8).
"""

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import block_size, jit, store_hadamard_fp8, tl, to_element, why_not
from kernels.fused._operators import entry_points, operator, wrap
from kernels.fused.formats import FP8, HADAMARD_SIZE, hadamard_fp8

MAX_CHANNELS = 16384


def supports(target: Target, *, heads: int, head_dim: int, quantize: str | None = None) -> str | None:
    """None when `run` can use its Triton kernel, else the reason. quantize: None or "fp8"."""
    if head_dim % 2:
        return f"head size {head_dim} is odd: rotary embedding rotates pairs"
    if block_size(heads, 1) * block_size(head_dim, 2) > MAX_CHANNELS:
        return f"{heads} heads of {head_dim} exceed the {MAX_CHANNELS} values that fit one program"
    if quantize not in (None, "fp8"):
        return f"q and k are quantized to fp8 only, not to {quantize}"
    if quantize is not None and head_dim % (2 * HADAMARD_SIZE):
        return (
            f"head size {head_dim} is not a multiple of {2 * HADAMARD_SIZE}: "
            "pairs rotate within quarters of a head"
        )
    return why_not(target, quantize)


def static_scale(weight: Tensor, heads: int) -> Tensor:
    """The fp32 scale of each head [A] that no normalised and twice rotated value exceeds; weight [A * D]."""
    largest = weight.float().abs().reshape(heads, -1).amax(dim=1)
    bound = math.sqrt(weight.numel()) * largest
    return bound.clamp_min(1e-12) / FP8.max


@dataclass(frozen=True, slots=True)
class Arguments:
    """x [B, S, A * D] -> [B, S, A, D] contiguous, in the dtype of x; with `scale` Hadamard-rotated E4M3.

    x has a contiguous last dim, any other strides (a slice of a merged QKV GEMM). weight [A * D]. cos, sin
    [1, S, 1, D] fp32 as diffusers' WanRotaryPosEmbed gives them (each value twice), contiguous; None: no
    rotary embedding. scale fp32 [A]. fp32 until the last rounding.
    """

    x: Tensor
    weight: Tensor
    cos: Tensor | None = None
    sin: Tensor | None = None
    _: KW_ONLY
    heads: int
    eps: float
    scale: Tensor | None = None


def _check(args: Arguments) -> None:
    x, weight = args.x, args.weight
    assert (args.cos is None) == (args.sin is None), "cos and sin come together"
    assert x.ndim == 3 and x.shape[-1] == weight.numel(), f"x {tuple(x.shape)}, weight {tuple(weight.shape)}"
    assert x.shape[-1] % args.heads == 0, f"{x.shape[-1]} channels do not divide into {args.heads} heads"


def _plain(args: Arguments) -> Tensor:
    wide = args.x.float()
    wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + args.eps) * args.weight.float()
    out = wide.reshape(*args.x.shape[:-1], args.heads, -1)  # [B, S, A, D]
    if args.cos is not None and args.sin is not None:
        even, odd = out.unflatten(-1, (-1, 2)).unbind(-1)
        c, s = args.cos[..., 0::2], args.sin[..., 1::2]
        out = torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2)
    if args.scale is None:
        return out.to(args.x.dtype)
    return hadamard_fp8(out, args.scale[:, None])


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
    x = _rotated(
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
    """One program: one token, all heads as four tiles [BLOCK_A, BLOCK_D], the quarters of a head that the
    Hadamard rotation adds: each thread then holds what it adds, and nothing goes through shared memory."""
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
    x0 = _rotated(
        x0 * inverse, weight_ptr, offsets, mask, cos_ptr, sin_ptr, angle, quarter, ROTATED, BLOCK_A, BLOCK_D
    )
    x1 = _rotated(
        x1 * inverse, weight_ptr + quarter, offsets, mask, cos_ptr, sin_ptr, angle + quarter, quarter,
        ROTATED, BLOCK_A, BLOCK_D,
    )  # fmt: skip
    x2 = _rotated(
        x2 * inverse, weight_ptr + 2 * quarter, offsets, mask, cos_ptr, sin_ptr, angle + 2 * quarter, quarter,
        ROTATED, BLOCK_A, BLOCK_D,
    )  # fmt: skip
    x3 = _rotated(
        x3 * inverse, weight_ptr + 3 * quarter, offsets, mask, cos_ptr, sin_ptr, angle + 3 * quarter, quarter,
        ROTATED, BLOCK_A, BLOCK_D,
    )  # fmt: skip

    scale = tl.load(scale_ptr + head, mask=head < heads, other=1.0)
    inverse_scale = (1.0 / scale)[:, None]
    target = out_ptr + (batch * num_tokens + token) * heads * head_dim + offsets
    store_hadamard_fp8(target, quarter, x0, x1, x2, x3, inverse_scale, mask)


@jit
def _rotated(  # type: ignore[no-untyped-def]
    x, weight_ptr, offsets, mask, cos_ptr, sin_ptr, angle, size,
    ROTATED: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The tile x [BLOCK_A, BLOCK_D] times its weights, its pairs rotated; `angle` is where its own begin."""
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


def _qk_norm_rope(args: Arguments) -> Tensor:
    """The operator. Absent angles point at x and are not read."""
    x = args.x
    batch, num_tokens, channels = x.shape
    head_dim = channels // args.heads
    assert x.stride(-1) == 1 and args.weight.is_contiguous(), f"strides {x.stride()}, {args.weight.stride()}"
    for table in (args.cos, args.sin):
        assert table is None or (table.is_contiguous() and table.numel() == num_tokens * head_dim), (
            f"angles {None if table is None else tuple(table.shape)} for {num_tokens} tokens of {head_dim}"
        )
    dtype = x.dtype if args.scale is None else FP8.dtype
    out = torch.empty((batch, num_tokens, args.heads, head_dim), dtype=dtype, device=x.device)
    angles = tuple(x if table is None else table for table in (args.cos, args.sin))
    sizes = (num_tokens, args.heads, head_dim, x.stride(0), x.stride(1))
    block_a, grid = block_size(args.heads, 1), (num_tokens, batch)
    if args.scale is None:
        block_d = block_size(head_dim, 2)
        wrap(_kernel)[grid](
            x, args.weight, *angles, out, *sizes, EPS=args.eps, ROTATED=args.cos is not None,
            BLOCK_A=block_a, BLOCK_D=block_d, num_warps=_num_warps(block_a * block_d),
        )  # fmt: skip
    else:
        assert head_dim % (2 * HADAMARD_SIZE) == 0, f"head size {head_dim}"
        block_d = block_size(head_dim // HADAMARD_SIZE, 2)
        wrap(_quantizing_kernel)[grid](
            x, args.weight, *angles, args.scale, out, *sizes, EPS=args.eps, ROTATED=args.cos is not None,
            BLOCK_A=block_a, BLOCK_D=block_d, num_warps=_num_warps(HADAMARD_SIZE * block_a * block_d),
        )  # fmt: skip
    return out


def _num_warps(num_values: int) -> int:
    return 4 if num_values <= 4096 else 8


_launch = operator("retake::qk_norm_rope", Arguments, _qk_norm_rope)

run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
