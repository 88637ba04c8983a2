"""SwiGLU (arXiv 2002.05202), silu(gate) * up of one merged GEMM, and 8-bit quantization in one pass.

A row is read once, as two tiles whose sizes are powers of two (see `row_quant`). F features of a result.
"""

from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import jit, larger, largest, scale_of, store_row, tl, two_tiles, why_not
from kernels.fused._operators import entry_points, operator, wrap
from kernels.fused.formats import SMALLEST_AMAX, format_of, quantize_rows

MAX_FEATURES = 32768
"""One program holds both inputs of a row in registers."""


def supports(target: Target, *, features: int, quantize: str | None = None) -> str | None:
    """None when `run` can use its Triton kernel, else the reason."""
    if features > MAX_FEATURES:
        return f"{features} features are more than the {MAX_FEATURES} that fit one program"
    return why_not(target, quantize)


@dataclass(frozen=True, slots=True)
class Arguments:
    """x [..., 2 F] contiguous, first the gate -> (out [..., F], scale [..., 1] fp32 or None), rounded once.

    out has the dtype of x, or that of the format ("fp8", "int8").
    """

    x: Tensor
    _: KW_ONLY
    quantize: str | None = None


def _check(args: Arguments) -> None:
    assert args.x.shape[-1] % 2 == 0, f"{args.x.shape[-1]} features are no two halves"


def _plain(args: Arguments) -> tuple[Tensor, Tensor | None]:
    gate, up = args.x.float().chunk(2, dim=-1)
    out = F.silu(gate) * up
    if args.quantize is None:
        return out.to(args.x.dtype), None
    return quantize_rows(out, format_of(args.quantize))


@jit
def _read(ptr, columns, FEATURES: tl.constexpr):  # type: ignore[no-untyped-def]
    """fp32: a piece of a row of the result."""
    inside = columns < FEATURES
    gate = tl.load(ptr + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(ptr + FEATURES + columns, mask=inside, other=0.0).to(tl.float32)
    return gate * tl.sigmoid(gate) * up


@jit
def _kernel(  # type: ignore[no-untyped-def]
    x_ptr, out_ptr, scale_ptr, FEATURES: tl.constexpr, FORMAT: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr, FORMAT_MAX: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """One program: one row, in a tile of FIRST and one of SECOND columns (0: no second tile)."""
    row = tl.program_id(0).to(tl.int64)
    source = x_ptr + row * (2 * FEATURES)
    target = out_ptr + row * FEATURES
    a = tl.arange(0, FIRST)
    x_a = _read(source, a, FEATURES)
    if SECOND > 0:
        b = FIRST + tl.arange(0, SECOND)
        x_b = _read(source, b, FEATURES)
    inverse = 1.0
    if FORMAT > 0:
        amax = largest(x_a, 0)
        if SECOND > 0:
            amax = larger(amax, largest(x_b, 0))
        scale = scale_of(amax, FORMAT_MAX, SMALLEST)
        tl.store(scale_ptr + row, scale)
        inverse = 1.0 / scale
    store_row(x_a, inverse, target, a, FEATURES, FORMAT)
    if SECOND > 0:
        store_row(x_b, inverse, target, b, FEATURES, FORMAT)


def _swiglu(args: Arguments) -> tuple[Tensor, Tensor]:
    """The operator: (out; scale, empty without a format)."""
    x = args.x
    assert x.is_contiguous(), f"strides {x.stride()}"
    features = x.shape[-1] // 2
    fmt = None if args.quantize is None else format_of(args.quantize)
    dtype = x.dtype if fmt is None else fmt.dtype
    out = torch.empty((*x.shape[:-1], features), dtype=dtype, device=x.device)
    scale_shape = (0,) if fmt is None else (*x.shape[:-1], 1)
    scale = torch.empty(scale_shape, dtype=torch.float32, device=x.device)
    first, second = two_tiles(features)
    wrap(_kernel)[(x.numel() // x.shape[-1],)](
        x, out, scale, FEATURES=features, FORMAT=fmt.code if fmt else 0, FIRST=first, SECOND=second,
        FORMAT_MAX=fmt.max if fmt else 1.0, SMALLEST=SMALLEST_AMAX,
        num_warps=4 if features <= 4096 else 8 if features <= 16384 else 16,
    )  # fmt: skip
    return out, scale


_op = operator("retake::swiglu", Arguments, _swiglu)


def _launch(args: Arguments) -> tuple[Tensor, Tensor | None]:
    out, scale = _op(args)
    return out, (None if args.quantize is None else scale)


run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
