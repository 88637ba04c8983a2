"""Per-token 8-bit quantization of the input of a linear layer, with GELU (tanh) in front where one belongs
there.

A row is read once: one program holds it as two tiles whose sizes are powers of two, because one such tile
would waste up to half of its lanes on the widths of feed-forward layers (8960 = 8192 + 768). F features of a
row.
"""

from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import jit, larger, largest, scale_of, tl, to_eight_bit, two_tiles, why_not
from kernels.fused._operators import entry_points, operator, wrap
from kernels.fused.formats import SMALLEST_AMAX, format_of, quantize_rows

MAX_FEATURES = 32768
ACTIVATIONS = (None, "gelu_tanh")


def supports(target: Target, *, features: int, quantize: str, activation: str | None = None) -> str | None:
    """None when `run` can use its Triton kernel, else the reason."""
    if activation not in ACTIVATIONS:
        return f"activation {activation!r} is not one of {ACTIVATIONS}"
    if features > MAX_FEATURES:
        return f"{features} features are more than the {MAX_FEATURES} that fit one program"
    return why_not(target, quantize)


@dataclass(frozen=True, slots=True)
class Arguments:
    """x [..., F] of any float dtype -> (x8 [..., F], scale [..., 1] fp32).

    activation None or "gelu_tanh", in fp32. Rows may be strided where x is a view of two dims or its leading
    dims flatten.
    """

    x: Tensor
    _: KW_ONLY
    quantize: str
    activation: str | None = None


def _check(args: Arguments) -> None:
    assert args.activation in ACTIVATIONS, f"activation {args.activation!r} is not one of {ACTIVATIONS}"


def _plain(args: Arguments) -> tuple[Tensor, Tensor]:
    wide = args.x.float() if args.activation is None else F.gelu(args.x.float(), approximate="tanh")
    return quantize_rows(wide, format_of(args.quantize))


@jit
def _read(ptr, columns, features, GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    """A piece of a row in fp32, activated. GELU(tanh) is x * sigmoid(2 u) with u the argument of the tanh."""
    x = tl.load(ptr + columns, mask=columns < features, other=0.0).to(tl.float32)
    if GELU:
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return x


@jit
def _kernel(  # type: ignore[no-untyped-def]
    x_ptr, out_ptr, scale_ptr, features, stride,
    GELU: tl.constexpr, FORMAT: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    FORMAT_MAX: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """One program: one row, in a tile of FIRST and one of SECOND columns (0: no second tile)."""
    row = tl.program_id(0).to(tl.int64)
    source = x_ptr + row * stride
    target = out_ptr + row * features
    first = tl.arange(0, FIRST)
    x = _read(source, first, features, GELU)
    amax = largest(x, 0)
    if SECOND > 0:
        second = FIRST + tl.arange(0, SECOND)
        z = _read(source, second, features, GELU)
        amax = larger(amax, largest(z, 0))
    scale = scale_of(amax, FORMAT_MAX, SMALLEST)
    inverse = 1.0 / scale
    tl.store(scale_ptr + row, scale)
    tl.store(target + first, to_eight_bit(x * inverse, FORMAT), mask=first < features)
    if SECOND > 0:
        tl.store(target + second, to_eight_bit(z * inverse, FORMAT), mask=second < features)


def _row_quant(args: Arguments) -> tuple[Tensor, Tensor]:
    """The operator."""
    x, fmt = args.x, format_of(args.quantize)
    features = x.shape[-1]
    rows = x.reshape(-1, features)
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    out = torch.empty(x.shape, dtype=fmt.dtype, device=x.device)
    scale = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    first, second = two_tiles(features)
    wrap(_kernel)[(rows.shape[0],)](
        rows, out, scale, features, rows.stride(0), GELU=args.activation == "gelu_tanh", FORMAT=fmt.code,
        FIRST=first, SECOND=second, FORMAT_MAX=fmt.max, SMALLEST=SMALLEST_AMAX,
        num_warps=4 if features <= 4096 else 8,
    )  # fmt: skip
    return out, scale


_launch = operator("retake::row_quant", Arguments, _row_quant)

run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
