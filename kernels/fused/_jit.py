"""Triton behind one door: without it every kernel file of `fused` and `linear` still imports, only not runs.

Holds what the kernels share on the device (the last rounding) and the reasons that apply to all of them.
Triton's interpreter (3.9) truncates to bf16 and rounds to E4M3 wrongly where the mantissa carries into the
exponent (1.99 becomes 1.0), so under it, and only there, values are rounded before the conversion, which is
then exact.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from kernels.descriptors import Target

try:
    import triton  # type: ignore[import-untyped, unused-ignore]
    import triton.language  # type: ignore[import-untyped, unused-ignore]

    tl: Any = triton.language
except ImportError:
    triton = None
    tl = SimpleNamespace(constexpr=object)  # what the signatures of the kernels name

HAS_TRITON = triton is not None
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret)) if HAS_TRITON else False


def tensor_map(x: Any, block: list[int]) -> Any:
    """What a kernel loads tiles of `block` elements of x [...] by: hardware copies them on capability 9.0."""
    from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-untyped, unused-ignore]

    return TensorDescriptor.from_tensor(x, block)


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`; without Triton the function as it is, which nothing calls."""
    return triton.jit(function) if HAS_TRITON else function


def why_not(target: Target, quantize: str | None = None) -> str | None:
    """The reason why no kernel of this kind runs on `target`, None where they do."""
    if not HAS_TRITON:
        return "Triton is not installed"
    if target.capability is None:
        return None if target.interpreted else "Triton kernels need a CUDA device"
    if target.capability < (8, 0):
        return f"{target} is below compute capability 8.0"
    if quantize == "fp8" and target.capability < (8, 9):
        return f"{target} is below compute capability 8.9, the first that converts to FP8 E4M3"
    return None


def ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)


def block_size(size: int, smallest: int = 16) -> int:
    """The power of two that holds `size` elements; tiles of Triton have such sides."""
    return max(smallest, 1 << (size - 1).bit_length())


def two_tiles(size: int) -> tuple[int, int]:
    """Two powers of two that hold `size` elements; the second is 0 where one tile is as good."""
    whole = block_size(size)
    half = whole // 2
    second = block_size(size - half) if size > half else 0
    return (whole, 0) if half < 16 or half + second >= whole else (half, second)


@jit
def round_to_even(x):  # type: ignore[no-untyped-def]
    """Nearest integer, ties to even, of |x| < 2**22: adding 1.5 * 2**23 leaves no bit below the point."""
    return (x + 12582912.0) - 12582912.0


@jit
def to_element(x, ptr):  # type: ignore[no-untyped-def]
    """fp32 -> the float type that `ptr` points at, nearest even."""
    if INTERPRETED:  # noqa: SIM102, each is decided when the kernel is compiled
        if ptr.dtype.element_ty == tl.bfloat16:
            bits = x.to(tl.int32, bitcast=True)
            x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
    return x.to(ptr.dtype.element_ty)


@jit
def largest(x, axis: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest |x| of fp32 along an axis; NaN where one is, which the device's own maximum leaves out.

    Of the bits without the sign, those of NaN are the largest integers.
    """
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.max(bits, axis=axis).to(tl.float32, bitcast=True)


@jit
def larger(x, y):  # type: ignore[no-untyped-def]
    """The larger of two fp32 values; NaN where one of them is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@jit
def scale_of(amax, FORMAT_MAX: tl.constexpr, SMALLEST: tl.constexpr):  # type: ignore[no-untyped-def]
    """The scale of values up to `amax`. INT8 has no NaN: that of a row is kept in its scale."""
    return larger(amax, SMALLEST) / FORMAT_MAX


@jit
def to_e4m3(x):  # type: ignore[no-untyped-def]
    """fp32 -> E4M3, nearest even, saturating at 448; NaN stays NaN. The only such cast in a kernel.

    What lies beyond 448 is clamped first: there the conversions of a GPU, of torch and of the interpreter
    differ (docs/behaviour.md).
    """
    x = tl.minimum(larger(x, -448.0), 448.0, propagate_nan=tl.PropagateNan.ALL)
    if INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
        subnormal = (x + 24576.0) - 24576.0
        x = tl.where(tl.abs(x) < 0.015625, subnormal, normal)
        x = tl.where(x == x, x, 480.0)  # the bits of E4M3's NaN, which the interpreter takes for 480
    return x.to(tl.float8e4nv)


@jit
def store_hadamard_fp8(target, quarter, x0, x1, x2, x3, inverse_scale, mask):  # type: ignore[no-untyped-def]
    """`formats.hadamard_fp8` of a head given as its quarters, which lie `quarter` elements apart."""
    factor = 0.5 * inverse_scale
    sum_01, difference_01, sum_23, difference_23 = x0 + x1, x0 - x1, x2 + x3, x2 - x3
    tl.store(target, to_e4m3((sum_01 + sum_23) * factor), mask=mask)
    tl.store(target + quarter, to_e4m3((difference_01 + difference_23) * factor), mask=mask)
    tl.store(target + 2 * quarter, to_e4m3((sum_01 - sum_23) * factor), mask=mask)
    tl.store(target + 3 * quarter, to_e4m3((difference_01 - difference_23) * factor), mask=mask)


@jit
def to_eight_bit(x, FORMAT: tl.constexpr):  # type: ignore[no-untyped-def]
    """fp32 values already divided by their scale -> FP8 (code 1) or INT8 (code 2)."""
    if FORMAT == 1:
        return to_e4m3(x)
    else:
        return round_to_even(tl.minimum(tl.maximum(x, -127.0), 127.0)).to(tl.int8)


@jit
def store_row(x, inverse, target, columns, COLUMNS: tl.constexpr, FORMAT: tl.constexpr):  # type: ignore[no-untyped-def]
    """A piece of one row in its last rounding; `inverse` is that of its scale, where it has one."""
    if FORMAT == 0:
        tl.store(target + columns, to_element(x, target), mask=columns < COLUMNS)
    else:
        tl.store(target + columns, to_eight_bit(x * inverse, FORMAT), mask=columns < COLUMNS)
