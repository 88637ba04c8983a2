"""RMSNorm of every head by itself, rotary embedding (RoPE, arXiv 2104.09864) of half-split pairs and, for
FP8, a Hadamard rotation and a static scale: one pass.

Unlike `qk_norm_rope` in two ways: a mean square per head of D values, not of all heads, and channel d forms a
pair with channel d + D / 2, not with its neighbour. The Hadamard rotation, `formats.hadamard`, leaves q k^T
as it is. `before` puts rows that are ready in front of the result, so that queries find cached and new keys
in one tensor without another copy.
B batch . S tokens . L tokens before . A heads . D head size (even).
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
    if block_size(heads, 1) * 2 * block_size(head_dim // 2, 2) > MAX_CHANNELS:
        return f"{heads} heads of {head_dim} exceed the {MAX_CHANNELS} values that fit one program"
    if quantize not in (None, "fp8"):
        return f"heads are quantized to fp8 only, not to {quantize}"
    if quantize is not None and head_dim % HADAMARD_SIZE:
        return f"head size {head_dim} is not a multiple of {HADAMARD_SIZE}, the size of the Hadamard rotation"
    return why_not(target, quantize)


def static_scale(*weights: Tensor) -> Tensor:
    """The fp32 scale [] that no value normalised with one of the weights [D] and twice rotated can exceed.

    The squares of D values divided by their rms sum to D or less, and both rotations keep the length of a
    head: no component exceeds max|w| sqrt(D).
    """
    largest = torch.stack([weight.float().abs().amax() for weight in weights]).amax()
    return (math.sqrt(weights[0].numel()) * largest).clamp_min(1e-12) / FP8.max


@dataclass(frozen=True, slots=True)
class Arguments:
    """x [B, S, A * D] -> [B, L + S, A, D] contiguous, in the dtype of x; with `scale` Hadamard-rotated E4M3.

    x has a contiguous last dim, any other strides (a slice of a merged QKV GEMM). weight [D]. cos, sin [S, D]
    fp32 contiguous, both halves alike. scale fp32 []. before [B, L, A, D] contiguous, of the dtype of the
    result, and Hadamard-rotated if that is. fp32 until the last rounding.
    """

    x: Tensor
    weight: Tensor
    cos: Tensor
    sin: Tensor
    _: KW_ONLY
    heads: int
    eps: float
    scale: Tensor | None = None
    before: Tensor | None = None


def _check(args: Arguments) -> None:
    x, before, head_dim = args.x, args.before, args.weight.numel()
    assert x.ndim == 3 and x.shape[2] == args.heads * head_dim, (
        f"x {tuple(x.shape)}, {args.heads} heads of {head_dim}"
    )
    assert args.cos.shape == args.sin.shape == (x.shape[1], head_dim), (
        f"angles {tuple(args.cos.shape)}, x {tuple(x.shape)}"
    )
    if before is not None:
        dtype = x.dtype if args.scale is None else FP8.dtype
        assert before.dtype == dtype, f"{before.dtype} before {dtype}"
        assert before.shape[0] == x.shape[0] and before.shape[2:] == (args.heads, head_dim), (
            f"before {tuple(before.shape)}, x {tuple(x.shape)} of {args.heads} heads"
        )


def _plain(args: Arguments) -> Tensor:
    wide = args.x.float().unflatten(2, (args.heads, -1))  # [B, S, A, D]
    wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + args.eps) * args.weight.float()
    first, second = wide.chunk(2, dim=-1)
    out = wide * args.cos[:, None] + torch.cat([-second, first], dim=-1) * args.sin[:, None]
    out = out.to(args.x.dtype) if args.scale is None else hadamard_fp8(out, args.scale)
    if args.before is None:
        return out
    if out.dtype == FP8.dtype:  # torch has no `cat` of E4M3 on every device
        joined = torch.cat([args.before.view(torch.uint8), out.view(torch.uint8)], dim=1)
        return joined.view(FP8.dtype)
    return torch.cat([args.before, out], dim=1)


@jit
def _kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, cos_ptr, sin_ptr, before_ptr, out_ptr,
    num_tokens, num_before, heads, head_dim, stride_b, stride_s, EPS: tl.constexpr,
    BLOCK_A: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: one token, all heads as two tiles [BLOCK_A, BLOCK_D], the halves that rotate together."""
    place = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    head = tl.arange(0, BLOCK_A)
    dim = tl.arange(0, BLOCK_D)
    half = head_dim // 2
    mask = (head < heads)[:, None] & (dim < half)[None, :]
    offsets = head[:, None] * head_dim + dim[None, :]
    target = out_ptr + (batch * (num_before + num_tokens) + place) * heads * head_dim + offsets
    if place < num_before:
        ready = before_ptr + (batch * num_before + place) * heads * head_dim + offsets
        tl.store(target, tl.load(ready, mask=mask), mask=mask)
        tl.store(target + half, tl.load(ready + half, mask=mask), mask=mask)
    else:
        token = place - num_before
        source = x_ptr + batch * stride_b + token * stride_s + offsets
        a = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(source + half, mask=mask, other=0.0).to(tl.float32)
        square = tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)
        inverse_rms = (1.0 / tl.sqrt(square / head_dim + EPS))[:, None]
        a, b = _rotated(
            a * inverse_rms, b * inverse_rms, weight_ptr, cos_ptr, sin_ptr, token, dim, half, half
        )
        tl.store(target, to_element(a, out_ptr), mask=mask)
        tl.store(target + half, to_element(b, out_ptr), mask=mask)


@jit
def _quantizing_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, cos_ptr, sin_ptr, scale_ptr, before_ptr, out_ptr,
    num_tokens, num_before, heads, head_dim, stride_b, stride_s, EPS: tl.constexpr,
    BLOCK_A: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: one token, all heads as four tiles [BLOCK_A, BLOCK_D], the quarters of a head that the
    Hadamard rotation combines; RoPE rotates the first with the third, the second with the fourth."""
    place = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    head = tl.arange(0, BLOCK_A)
    dim = tl.arange(0, BLOCK_D)
    quarter = head_dim // 4
    half = 2 * quarter
    mask = (head < heads)[:, None] & (dim < quarter)[None, :]
    offsets = head[:, None] * head_dim + dim[None, :]
    target = out_ptr + (batch * (num_before + num_tokens) + place) * heads * head_dim + offsets
    if place < num_before:
        ready = before_ptr + (batch * num_before + place) * heads * head_dim + offsets
        for part in tl.static_range(4):
            tl.store(target + part * quarter, tl.load(ready + part * quarter, mask=mask), mask=mask)
    else:
        token = place - num_before
        source = x_ptr + batch * stride_b + token * stride_s + offsets
        x0 = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        x1 = tl.load(source + quarter, mask=mask, other=0.0).to(tl.float32)
        x2 = tl.load(source + half, mask=mask, other=0.0).to(tl.float32)
        x3 = tl.load(source + half + quarter, mask=mask, other=0.0).to(tl.float32)
        square = tl.sum(x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3, axis=1)
        inverse_rms = (1.0 / tl.sqrt(square / head_dim + EPS))[:, None]
        x0, x2 = _rotated(
            x0 * inverse_rms, x2 * inverse_rms, weight_ptr, cos_ptr, sin_ptr, token, dim, half, quarter
        )
        x1, x3 = _rotated(
            x1 * inverse_rms, x3 * inverse_rms, weight_ptr + quarter, cos_ptr + quarter, sin_ptr + quarter,
            token, dim, half, quarter,
        )  # fmt: skip
        store_hadamard_fp8(target, quarter, x0, x1, x2, x3, 1.0 / tl.load(scale_ptr), mask)


@jit
def _rotated(  # type: ignore[no-untyped-def]
    a, b, weight_ptr, cos_ptr, sin_ptr, token, dim, half, size
):  # fmt: skip
    """Channels a and those half a head behind, b, times their weights, rotated; `size` of them."""
    known = dim < size
    angle = token * 2 * half + dim
    c = tl.load(cos_ptr + angle, mask=known, other=1.0).to(tl.float32)[None, :]
    s = tl.load(sin_ptr + angle, mask=known, other=0.0).to(tl.float32)[None, :]
    a = a * tl.load(weight_ptr + dim, mask=known, other=0.0).to(tl.float32)[None, :]
    b = b * tl.load(weight_ptr + half + dim, mask=known, other=0.0).to(tl.float32)[None, :]
    return a * c - b * s, b * c + a * s


def _head_norm_rope(args: Arguments) -> Tensor:
    """The operator."""
    x, heads, scale, before = args.x, args.heads, args.scale, args.before
    batch, num_tokens, channels = x.shape
    head_dim = channels // heads
    assert x.stride(-1) == 1 and args.weight.is_contiguous(), f"strides {x.stride()}, {args.weight.stride()}"
    assert args.cos.is_contiguous() and args.sin.is_contiguous(), "angles have strides"
    assert before is None or before.is_contiguous(), "what stands before has strides"
    assert scale is None or head_dim % HADAMARD_SIZE == 0, f"head size {head_dim}"
    dtype = x.dtype if scale is None else FP8.dtype
    num_before = 0 if before is None else before.shape[1]
    shape = (batch, num_before + num_tokens, heads, head_dim)
    out = torch.empty(shape, dtype=dtype, device=x.device)
    # Absent: a pointer of the type that is read, which no program follows.
    ready = before if before is not None else out
    grid = (num_before + num_tokens, batch)
    sizes = (num_tokens, num_before, heads, head_dim, x.stride(0), x.stride(1))
    block_a, block_d = (
        block_size(heads, 1),
        block_size(head_dim // (2 if scale is None else HADAMARD_SIZE), 1),
    )
    blocks = {"BLOCK_A": block_a, "BLOCK_D": block_d, "num_warps": 4 if block_a * head_dim <= 4096 else 8}
    if scale is None:
        wrap(_kernel)[grid](x, args.weight, args.cos, args.sin, ready, out, *sizes, EPS=args.eps, **blocks)
    else:
        wrap(_quantizing_kernel)[grid](
            x, args.weight, args.cos, args.sin, scale, ready, out, *sizes, EPS=args.eps, **blocks
        )
    return out


_launch = operator("retake::head_norm_rope", Arguments, _head_norm_rope)

run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
