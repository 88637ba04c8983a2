"""Triton behind one door: every kernel file of `fused` and `linear` imports, without Triton it only cannot
run; and how every Triton kernel of Retake becomes an operator of torch.

Holds what the kernels share on the device (the last rounding) and the reasons that apply to all of them.
Triton's interpreter (3.9) truncates to bf16 and rounds to E4M3 wrongly where the mantissa carries into the
exponent (1.99 becomes 1.0), so under it, and only there, values are rounded before the conversion, which is
then exact.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.functional_tensor import FunctionalTensorMode

from kernels.descriptors import Target

try:
    import triton  # type: ignore[import-untyped, unused-ignore]
    import triton.language  # type: ignore[import-untyped, unused-ignore]

    tl: Any = triton.language
except ImportError:
    triton = None
    tl = SimpleNamespace(constexpr=object)  # what the signatures of the kernels name

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret)) if triton is not None else False

Function = Callable[..., Any]


def jit(function: Function) -> Any:
    """`triton.jit`; without Triton the function as it is, which nothing calls."""
    return function if triton is None else triton.jit(function)


_shapes_only: ContextVar[bool] = ContextVar("_shapes_only", default=False)
"""Whether the function of an operator only allocates its results: what tracing asks for."""
_inside: ContextVar[bool] = ContextVar("_inside", default=False)


def kernels_inside() -> AbstractContextManager[None]:
    """Within it the compiler launches the kernels of an operator itself, so that what it makes needs neither
    Python nor Triton to run: for code compiled ahead of time.

    Elsewhere torch.compile keeps an operator as one call. Launching its kernels would save host time, which a
    CUDA graph saves too, and costs: an argument that occurs twice (what stands for an absent one) is copied
    for each place, and Inductor gives a Python float as fp64, which spreads over the kernel and has no
    conversion to E4M3. Every float that a kernel takes is a constexpr, so that both ways work.
    """
    return _on(_inside)


def triton_op(name: str, function: Function, *, writes: Collection[str] = ()) -> Any:
    """`function` as an operator of torch; it starts its kernels by `wrap(kernel)[grid](...)`.

    `writes`: the arguments it writes into; an operator returns new tensors or writes, not both.
    """
    if triton is None:
        return function
    operator = torch.library.custom_op(name, function, mutates_args=writes)

    @functools.wraps(function)
    def shapes(*args: Any) -> Any:
        with _on(_shapes_only):
            return function(*args)

    def functionalized(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _inside.get():
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return function(*args, **(kwargs or {}))

    operator.register_fake(shapes)
    operator.register_torch_dispatch(FunctionalTensorMode, functionalized)
    return operator


def wrap(kernel: Any) -> Any:
    """`kernel`, to be started from the function of a `triton_op`."""
    if _shapes_only.get():
        return _Nothing()
    return torch.library.wrap_triton(kernel) if _inside.get() else kernel


@contextmanager
def _on(switch: ContextVar[bool]) -> Iterator[None]:
    token = switch.set(True)
    try:
        yield
    finally:
        switch.reset(token)


class _Nothing:
    """Stands for a kernel that is not started."""

    def __getitem__(self, grid: object) -> Function:
        return lambda *args, **options: None


def why_not(target: Target, quantize: str | None = None) -> str | None:
    """The reason why no kernel of this kind runs on `target`, None where they do."""
    if triton is None:
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
def to_e4m3(x):  # type: ignore[no-untyped-def]
    """fp32 -> E4M3, nearest even, saturating at 448."""
    x = tl.minimum(tl.maximum(x, -448.0), 448.0)
    if INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
        subnormal = (x + 24576.0) - 24576.0
        x = tl.where(tl.abs(x) < 0.015625, subnormal, normal)
    return x.to(tl.float8e4nv)


@jit
def store_mixed(target, quarter, x0, x1, x2, x3, inverse_scale, mask):  # type: ignore[no-untyped-def]
    """The quarters of a head, mixed as by `formats.mixed`, as E4M3; they lie `quarter` elements apart."""
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
