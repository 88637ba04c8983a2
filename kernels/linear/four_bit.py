"""4-bit weights for few rows: what a language model multiplies by while it decodes.

A weight is a level of a table of 16 (NF4, arXiv 2305.14314; FP4; INT4) times the scale of its 64 neighbours
along K. A decoding step reads every weight once and does nothing else of size, so bytes decide: 4.25 bits a
weight. `run` is a CUDA kernel of 1 to 16 rows, compiled by NVRTC at first use (`four_bit.cu`); more rows take
`dequantize` and a library GEMM. Invariant: what a row comes to does not depend, bit for bit, on the other
rows or their number.

M rows (tokens) . K input features . N output features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from kernels.descriptors import LinearProblem
from kernels.fused._jit import ceil_div
from kernels.fused._operators import entry_points

MAX_ROWS = 16
GROUP = 64
"""Weights of one scale, along K."""
TILE_FEATURES = 16
TILE_BYTES = 544
"""16 features by 64 inputs: 512 bytes of weights, 32 of scales."""
NUM_LEVELS = 16

MAX_RELATIVE_ERROR = 0.004
"""Against fp32 of the same levels and scales, in the Frobenius norm: levels in bf16 bring 0.0020, as much as
rounding each dequantized weight to bf16 does."""

_WARPS = 16
_WIDE_SHARED = 128 * 1024
_SUM_BYTES = _WARPS * 512  # of one tile of features and eight rows
_TABLE_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class FourBitWeight:
    """tiles uint8 [N/16, K/64, 544] contiguous; table int32 [256], two bf16 levels for each byte.

    Scales are stored in fp16 as multiples of `unit`, a power of two.
    """

    tiles: Tensor
    table: Tensor
    unit: float

    @property
    def out_features(self) -> int:
        return self.tiles.shape[0] * TILE_FEATURES

    @property
    def in_features(self) -> int:
        return self.tiles.shape[1] * GROUP

    def rows(self, start: int, stop: int) -> FourBitWeight:
        """The weight of the output features from `start` to `stop`, a view."""
        assert start % TILE_FEATURES == stop % TILE_FEATURES == 0, f"{start} to {stop} cuts a tile"
        part = self.tiles[start // TILE_FEATURES : stop // TILE_FEATURES]
        return FourBitWeight(part, self.table, self.unit)


def supports(problem: LinearProblem) -> str | None:
    """None when `run` can do the problem, else the reason."""
    if problem.rows > MAX_ROWS:
        return f"{problem.rows} rows are more than {MAX_ROWS}"
    if reason := packs(problem.in_features, problem.out_features):
        return reason
    if problem.target.kind == "cpu":
        return "Triton's interpreter does not run CUDA" if problem.target.interpreted else None
    if torch.version.hip is not None:
        return "the kernel is CUDA"
    if problem.dtype != "bf16":
        return f"rows are {problem.dtype}, not bf16"
    if problem.target.capability is not None and problem.target.capability < (8, 0):
        return f"{problem.target} is below compute capability 8.0, the first that multiplies bf16"
    return None


def packs(in_features: int, out_features: int) -> str | None:
    """None when a weight of this size can be stored in tiles, else the reason."""
    if in_features % GROUP:
        return f"{in_features} input features are no multiple of {GROUP}"
    if out_features % TILE_FEATURES:
        return f"{out_features} output features are no multiple of {TILE_FEATURES}"
    return None


def pack(codes: Tensor, scales: Tensor, levels: Sequence[float] | Tensor) -> FourBitWeight:
    """codes uint8 [N, K], 0 to 15; scales [N, K/64] fp32; levels [16] -> the weight, on the device of codes.

    The order within a tile is that of the kernel's operand (PTX ISA, mma.m16n8k16): a lane's 16 bytes are
    two features, 8 apart, of 16 neighbouring inputs, so that it finds its inputs in 32 neighbouring bytes.
    """
    n, k = codes.shape
    assert (reason := packs(k, n)) is None, reason
    assert scales.shape == (n, k // GROUP), f"scales {tuple(scales.shape)} for codes {tuple(codes.shape)}"
    # tile, half, g, block of K, q, j, pair, one of the pair
    split = codes.view(n // 16, 2, 8, k // GROUP, 4, 4, 2, 2)
    weights = (split[..., 0] | (split[..., 1] << 4)).permute(0, 3, 2, 4, 5, 6, 1)
    unit = _unit(scales)
    halves = (scales / unit).view(n // 16, 2, 8, k // GROUP).permute(0, 3, 2, 1).half()
    parts = (part.contiguous().view(torch.uint8).view(n // 16, k // GROUP, -1) for part in (weights, halves))
    return FourBitWeight(torch.cat((*parts,), dim=-1), _table(levels, codes.device), unit)


def _unit(scales: Tensor) -> float:
    largest = float(scales.abs().max())
    return 2.0 ** (torch.tensor(largest).log2().floor().item() if largest > 0 else 0.0)


def _table(levels: Sequence[float] | Tensor, device: torch.device) -> Tensor:
    given = torch.as_tensor(levels, dtype=torch.float32)
    assert given.shape == (NUM_LEVELS,), f"{tuple(given.shape)} levels, not {NUM_LEVELS}"
    bits = given.cpu().bfloat16().view(torch.int16).to(torch.int32) & 0xFFFF
    byte = torch.arange(256)
    return (bits[byte & 15] | (bits[byte >> 4] << 16)).to(device)


def dequantize(weight: FourBitWeight) -> Tensor:
    """-> [N, K] bf16, contiguous."""
    if not weight.tiles.is_cuda:
        return _dequantize(weight).bfloat16()
    out = torch.empty(
        weight.out_features, weight.in_features, dtype=torch.bfloat16, device=weight.tiles.device
    )
    num_threads = weight.tiles.numel() // TILE_BYTES * 32
    kernel = _compiled(weight.tiles.device, "four_bit_dequantize", 1, 1)
    kernel(
        grid=(ceil_div(num_threads, 256), 1, 1),
        block=(256, 1, 1),
        args=[weight.tiles, weight.table, out, weight.unit, weight.out_features, weight.in_features],
    )
    return out


def _dequantize(weight: FourBitWeight) -> Tensor:
    """In fp32, by the layout as `pack` states it."""
    tiles_n, blocks_k = weight.tiles.shape[:2]
    bits = torch.stack((weight.table & 0xFFFF, (weight.table >> 16) & 0xFFFF), dim=-1)
    levels = (bits << 16).view(torch.float32)  # [256, 2]
    packed = weight.tiles[..., :512].reshape(tiles_n, blocks_k, 8, 4, 4, 2, 2)
    values = levels[packed.long()]  # tile, block of K, g, q, j, pair, half, one of the pair
    values = values.permute(0, 6, 2, 1, 3, 4, 5, 7)
    scales = weight.tiles[..., 512:].contiguous().view(torch.float16).view(tiles_n, blocks_k, 8, 2)
    scales = scales.permute(0, 3, 2, 1).float()[..., None] * weight.unit
    shape = (tiles_n, 2, 8, blocks_k, GROUP)
    return (values.reshape(shape) * scales).reshape(weight.out_features, weight.in_features)


@dataclass(frozen=True, slots=True)
class Arguments:
    """x [M, K] bf16 contiguous (any float type in plain torch), M up to 16; bias [N], residual [M, N] of the
    type of x -> x W^T + bias, rounded, + residual: [M, N] of the type of x."""

    x: Tensor
    weight: FourBitWeight
    _: KW_ONLY
    bias: Tensor | None = None
    residual: Tensor | None = None


def _check(args: Arguments) -> None:
    assert args.x.dim() == 2 and args.x.shape[1] == args.weight.in_features, (
        f"x {tuple(args.x.shape)} for {args.weight.in_features} input features"
    )
    shape = (args.x.shape[0], args.weight.out_features)
    assert args.residual is None or args.residual.shape == shape, (
        f"residual {tuple(args.residual.shape)}, not {shape}"
    )


def _plain(args: Arguments) -> Tensor:
    product = args.x.float() @ _dequantize(args.weight).t()
    out = (product if args.bias is None else product + args.bias.float()).to(args.x.dtype)
    return out if args.residual is None else out + args.residual


def _launch(args: Arguments) -> Tensor:
    x, weight = args.x, args.weight
    num_rows, out_features = x.shape[0], weight.out_features
    assert 1 <= num_rows <= MAX_ROWS, f"{num_rows} rows, not 1 to {MAX_ROWS}"
    for tensor in (x, args.bias, args.residual):
        assert tensor is None or (tensor.dtype == torch.bfloat16 and tensor.is_contiguous()), (
            f"{tensor.dtype} with strides {tensor.stride()}, not contiguous bf16"
        )
    out = torch.empty(num_rows, out_features, dtype=x.dtype, device=x.device)
    num_tiles = out_features // TILE_FEATURES
    num_blocks = min(num_tiles, torch.cuda.get_device_properties(x.device).multi_processor_count)
    row_tiles = _row_tiles(ceil_div(num_tiles, num_blocks))
    kernel = _compiled(x.device, "four_bit_gemm", row_tiles, ceil_div(num_rows, 8))
    options = (args.bias is not None) + 2 * (args.residual is not None)
    kernel(
        grid=(num_blocks, 1, 1),
        block=(_WARPS * 32, 1, 1),
        args=[
            x, weight.tiles, weight.table, x if args.bias is None else args.bias,
            x if args.residual is None else args.residual, out, weight.unit, options, num_rows, out_features,
            weight.in_features,
        ],
        shared_mem=_shared_bytes(_is_wide(x.device), row_tiles, ceil_div(num_rows, 8)),
    )  # fmt: skip
    return out


run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)


def _row_tiles(tiles_a_block: int) -> int:
    """2 or 3 at once, whichever wastes less of the last pass; more do not fit the registers."""
    return min((3, 2), key=lambda size: ceil_div(tiles_a_block, size) * size)


def _is_wide(device: torch.device) -> bool:
    """Whether the table may take 128 KiB: on 8.0, 9.0 and 10.0, not on 8.6, 8.9 and 12.0."""
    limit: int = torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]
    return limit >= _WIDE_SHARED


def _shared_bytes(wide: bool, row_tiles: int, column_tiles: int) -> int:
    return _WIDE_SHARED if wide else _TABLE_BYTES + row_tiles * column_tiles * _SUM_BYTES


@cache
def _compiled(device: torch.device, name: str, row_tiles: int, column_tiles: int) -> Any:
    """torch's handle of the kernel; NVRTC takes about half a second."""
    wide = _is_wide(device)
    source = resources.files("kernels.linear").joinpath("four_bit.cu").read_text()
    defines = [f"-DROW_TILES={row_tiles}", f"-DCOLUMN_TILES={column_tiles}", f"-DWIDE_TABLE={int(wide)}"]
    with torch.cuda.device(device):
        kernel = torch.cuda._compile_kernel(source, name, nvcc_options=[*defines, "--std=c++17"])
        if name == "four_bit_gemm":
            kernel.set_shared_memory_config(_shared_bytes(wide, row_tiles, column_tiles))
    return kernel
