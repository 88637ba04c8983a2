"""INT8 W8A8 linear: per-token activations, per-channel weights, for cards where FP8 runs at half of INT8's
rate.

`run` on a GPU is a Triton s8 x s8 GEMM that scales, adds the bias and rounds in its epilogue;
`run_library` is torch's `_int_mm` followed by an epilogue kernel, which writes and reads M x N int32 in
between. M rows (tokens) . K input features . N output features.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.descriptors import LinearProblem
from kernels.fused._jit import ceil_div, jit, tl, to_element, why_not
from kernels.fused._operators import entry_points, operator, triton_op, wrap
from kernels.fused.formats import INT8, quantize_rows
from kernels.linear._operands import Operands

MAX_RELATIVE_ERROR = 0.025
MIN_COSINE = 0.9995
"""Against fp32 of the unquantized operands, for rows of normal-like values, in the Frobenius norm: each
operand brings about 0.010 (see `formats`), their matrix product 0.014."""

FORMAT = INT8.name
"""What its operands are rounded to."""
ALIGNMENT = 8
MIN_LIBRARY_ROWS = 17
"""What `_int_mm` asks for on a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """The shape of one program of the GEMM. Shared memory: num_stages * k * (m + n) bytes."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int


_SMALL = Tile(m=16, n=128, k=128, num_warps=4, num_stages=3)
_MIDDLE = Tile(m=64, n=128, k=128, num_warps=4, num_stages=3)
TILES: dict[tuple[int, int], Tile] = {
    (8, 0): Tile(m=128, n=128, k=128, num_warps=8, num_stages=3),
    (8, 6): Tile(m=128, n=128, k=64, num_warps=8, num_stages=4),
    (8, 9): Tile(m=128, n=128, k=64, num_warps=8, num_stages=4),
    (9, 0): Tile(m=128, n=256, k=128, num_warps=8, num_stages=4),
    (12, 0): Tile(m=128, n=128, k=64, num_warps=8, num_stages=4),
}
"""By compute capability, for many rows; a card that is not named takes the highest entry that is not above
it. Shared memory per block decides most of it: 164 KiB on 8.0, 100 KiB on 8.6, 8.9 and 12.x, 227 KiB on
9.0; then registers: more than 64 sums per thread spill on 8.x with Triton 3.9."""


def tile_of(capability: tuple[int, int], rows: int) -> Tile:
    """The tile for a card and a number of rows."""
    if rows <= 32:
        return _SMALL
    if rows <= 512:
        return _MIDDLE
    return TILES[max((known for known in TILES if known <= capability), default=(8, 0))]


def supports(problem: LinearProblem) -> str | None:
    """None when `run` can do the problem, else the reason."""
    if problem.target.kind == "cpu" and not problem.target.interpreted:
        return None  # `plain` takes any size
    for name, size in (("input", problem.in_features), ("output", problem.out_features)):
        if size % ALIGNMENT:
            return f"{size} {name} features are no multiple of {ALIGNMENT}"
    return why_not(problem.target, "int8")


def supports_library(problem: LinearProblem) -> str | None:
    """None when `run_library` can do the problem, else the reason."""
    if problem.target.kind == "cuda" and problem.rows < MIN_LIBRARY_ROWS:
        return f"{problem.rows} rows are below the {MIN_LIBRARY_ROWS} that _int_mm takes on a GPU"
    return supports(problem)


@cache
def library_is_exact() -> bool:
    """Whether `torch._int_mm` gives exact sums on this CPU, by trying it; see docs/behaviour.md."""
    random = torch.Generator().manual_seed(0)
    x, w = (torch.randint(-127, 128, (32, 256), generator=random, dtype=torch.int8) for _ in range(2))
    return torch.equal(torch._int_mm(x, w.t()).double(), x.double() @ w.double().t())


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [N, K] -> (w8 [N, K] int8, w_scale [N] fp32)."""
    w8, scale = quantize_rows(weight.detach(), INT8)
    return w8, scale.flatten()


def _plain(args: Operands) -> Tensor:
    """In fp64, which holds every sum exactly; `_int_mm` on a CPU without VNNI does not: docs/behaviour.md."""
    sums = args.x8.reshape(-1, args.x8.shape[-1]).double() @ args.w8.double().t()
    out = sums.float() * args.x_scale.reshape(-1, 1) * args.w_scale
    out = (out if args.bias is None else out + args.bias.float()).to(args.out_dtype)
    return out.reshape(*args.x8.shape[:-1], -1)


@jit
def _finish(  # type: ignore[no-untyped-def]
    sums, row, column, x_scale_ptr, w_scale_ptr, bias_ptr, out_ptr, num_rows, num_columns,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Stores a tile of int32 sums, scaled, with the bias, in the type of the output."""
    x_scale = tl.load(x_scale_ptr + row, mask=row < num_rows, other=0.0)
    w_scale = tl.load(w_scale_ptr + column, mask=column < num_columns, other=0.0)
    out = sums.to(tl.float32) * x_scale[:, None] * w_scale[None, :]
    if HAS_BIAS:
        bias = tl.load(bias_ptr + column, mask=column < num_columns, other=0.0)
        out = out + bias.to(tl.float32)[None, :]
    mask = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    target = out_ptr + row.to(tl.int64)[:, None] * num_columns + column[None, :]
    tl.store(target, to_element(out, out_ptr), mask=mask)


@jit
def _epilogue_kernel(  # type: ignore[no-untyped-def]
    sums_ptr, x_scale_ptr, w_scale_ptr, bias_ptr, out_ptr, num_rows, num_columns,
    HAS_BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    source = sums_ptr + row.to(tl.int64)[:, None] * num_columns + column[None, :]
    sums = tl.load(source, mask=mask, other=0)
    _finish(sums, row, column, x_scale_ptr, w_scale_ptr, bias_ptr, out_ptr, num_rows, num_columns, HAS_BIAS)


@jit
def _gemm_kernel(  # type: ignore[no-untyped-def]
    x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, bias_ptr, out_ptr, num_rows, num_columns, size_k, stride_x,
    HAS_BIAS: tl.constexpr, EVEN_K: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: a tile of the output. GROUP tiles of rows go together, so that they find W in the L2
    cache."""
    tile = tl.program_id(0)
    tiles_m = tl.cdiv(num_rows, BLOCK_M)
    tiles_n = tl.cdiv(num_columns, BLOCK_N)
    group = tile // (GROUP * tiles_n)
    group_rows = tl.minimum(tiles_m - group * GROUP, GROUP)
    inner = tile % (GROUP * tiles_n)
    row = (group * GROUP + inner % group_rows) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = (inner // group_rows) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # Rows and columns past the end repeat the last one, which needs no mask inside the loop; they are not
    # stored.
    x = x_ptr + tl.minimum(row, num_rows - 1).to(tl.int64)[:, None] * stride_x + k[None, :]
    w = w_ptr + tl.minimum(column, num_columns - 1).to(tl.int64)[None, :] * size_k + k[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for start in range(0, size_k, BLOCK_K):
        if EVEN_K:
            sums = tl.dot(tl.load(x), tl.load(w), sums, out_dtype=tl.int32)
        else:
            left = tl.load(x, mask=(start + k < size_k)[None, :], other=0)
            right = tl.load(w, mask=(start + k < size_k)[:, None], other=0)
            sums = tl.dot(left, right, sums, out_dtype=tl.int32)
        x += BLOCK_K
        w += BLOCK_K
    _finish(sums, row, column, x_scale_ptr, w_scale_ptr, bias_ptr, out_ptr, num_rows, num_columns, HAS_BIAS)


def _epilogue(
    sums: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """The operator after `_int_mm`."""
    num_rows, num_columns = sums.shape
    out = torch.empty(sums.shape, dtype=out_dtype, device=sums.device)
    block_m, block_n = 8, 512
    wrap(_epilogue_kernel)[(ceil_div(num_rows, block_m), ceil_div(num_columns, block_n))](
        sums, x_scale, w_scale, sums if bias is None else bias, out, num_rows, num_columns,
        HAS_BIAS=bias is not None, BLOCK_M=block_m, BLOCK_N=block_n, num_warps=8,
    )  # fmt: skip
    return out


def _int8_linear(args: Operands) -> Tensor:
    """The operator with the fused epilogue."""
    capability = torch.cuda.get_device_capability(args.x8.device) if args.x8.is_cuda else (8, 0)
    return start(args, tile_of(capability, args.x_scale.numel()))


def start(args: Operands, tile: Tile) -> Tensor:
    """The GEMM with a given tile."""
    w8, bias, rows = args.w8, args.bias, args.x8.reshape(-1, args.x8.shape[-1])
    num_rows, size_k = rows.shape
    num_columns = w8.shape[0]
    assert rows.stride(1) == 1 and w8.is_contiguous(), f"strides {rows.stride()}, {w8.stride()}"
    shape = (*args.x8.shape[:-1], num_columns)
    out = torch.empty(shape, dtype=args.out_dtype, device=rows.device)
    num_tiles = ceil_div(num_rows, tile.m) * ceil_div(num_columns, tile.n)
    x_scale = args.x_scale.reshape(-1)
    wrap(_gemm_kernel)[(num_tiles,)](
        rows, w8, x_scale, args.w_scale, x_scale if bias is None else bias, out,
        num_rows, num_columns, size_k, rows.stride(0),
        HAS_BIAS=bias is not None, EVEN_K=size_k % tile.k == 0, GROUP=8,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out


_epilogue_op: Any = triton_op("retake::int8_epilogue", _epilogue)
_launch = operator("retake::int8_linear", Operands, _int8_linear)


def _launch_library(args: Operands) -> Tensor:
    sums = torch._int_mm(args.x8.reshape(-1, args.x8.shape[-1]), args.w8.t())
    x_scale = args.x_scale.reshape(-1)
    out: Tensor = _epilogue_op(sums, x_scale, args.w_scale, args.bias, args.out_dtype)
    return out.reshape(*args.x8.shape[:-1], -1)


run, plain, launch = entry_points(Operands, plain=_plain, launch=_launch)
run_library, _, launch_library = entry_points(Operands, plain=_plain, launch=_launch_library)
