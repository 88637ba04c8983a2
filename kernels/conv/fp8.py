"""FP8 E4M3 convolution of channels-last videos: an implicit GEMM, for which nothing is unfolded in memory.

The input brings its own zeros around each picture. So the input of a pixel at one tap lies a fixed distance
behind it, and a run of pixels, across the ends of lines, is a run there too: a tile of two dims, which
Hopper copies by hardware. What is computed for the zeros between lines is not stored. One scale for all
inputs and one for each output channel, both in the epilogue; a bias is left to the pass that reads the
result (`kernels/fused/channel_norm.py`).
B batch . C channels . O outputs . T' frames of the input . T of the output . H', W' pixels with the zeros
H, W of the output . kt, kh, kw taps
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import ceil_div, jit, tensor_map, tl, to_element, why_not
from kernels.fused._operators import entry_points, operator, wrap
from kernels.fused.formats import FP8, quantize_rows

MAX_RELATIVE_ERROR = 0.05
"""Against fp32 of the unquantized operands, for normal-like values, in the Frobenius norm; of the SiLU of
such values too. As of a linear layer (kernels/linear/fp8_rowwise.py): sums stay in the tensor cores."""

MULTIPLE = 32
"""Of channels and outputs: the K of one instruction of the tensor cores."""
MAX_BLOCK_K = 128
TENSOR_MAPS = (9, 0)
"""The capability whose rectangles are copied by hardware (TMA), with zeros beyond the edges; elsewhere each
thread computes addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """The shape of one program. `m`: pixels. Shared memory: num_stages * k * (m + outputs) bytes."""

    m: int
    n: int
    num_warps: int
    num_stages: int
    maps: bool
    """Whether inputs and weights are copied by tensor maps."""

    def __str__(self) -> str:
        how = "tensor maps" if self.maps else "pointers"
        return f"{self.m}x{self.n} warps={self.num_warps} stages={self.num_stages} {how}"


def _tile(m: int, n: int, num_warps: int, num_stages: int, *, maps: bool) -> Tile:
    return Tile(m=m, n=n, num_warps=num_warps, num_stages=num_stages, maps=maps)


TILES: dict[tuple[int, int], tuple[Tile, ...]] = {
    (8, 9): (
        _tile(128, 128, 8, 3, maps=False),
        _tile(128, 96, 8, 3, maps=False),
        _tile(128, 64, 4, 3, maps=False),
        _tile(128, 32, 4, 3, maps=False),
    ),
    TENSOR_MAPS: (
        _tile(128, 256, 8, 4, maps=True),
        _tile(256, 192, 8, 4, maps=True),
        _tile(128, 192, 8, 4, maps=True),
        _tile(256, 128, 8, 4, maps=True),
        _tile(128, 128, 8, 4, maps=True),
        _tile(256, 96, 8, 4, maps=True),
        _tile(256, 64, 8, 4, maps=True),
        _tile(128, 32, 4, 4, maps=True),
        _tile(128, 192, 8, 3, maps=False),
        _tile(128, 128, 8, 3, maps=False),
    ),
}
"""By capability, best first of those whose n divides the outputs. Their order on 9.0 is by how much is read
for a product and awaits its measurement (python -m bench.perf.vae)."""
INTERPRETED = (_tile(32, 96, 4, 1, maps=False), _tile(32, 32, 4, 1, maps=False))


_preferred: ContextVar[Mapping[tuple[int, int], Tile]] = ContextVar("_preferred", default={})  # noqa: B039


@contextmanager
def preferring(tiles: Mapping[tuple[int, int], Tile]) -> Iterator[None]:
    """Within it a convolution of (channels, outputs) has the tile that a measurement found for it."""
    token = _preferred.set(tiles)
    try:
        yield
    finally:
        _preferred.reset(token)


def supports(target: Target, *, channels: int, outputs: int) -> str | None:
    """None when `run` can do the convolution on `target`, else the reason."""
    for name, size in (("input", channels), ("output", outputs)):
        if size % MULTIPLE:
            return f"{size} {name} channels are no multiple of {MULTIPLE}"
    if target.kind == "cpu" and not target.interpreted:
        return None  # `plain`
    return why_not(target, FP8.name)


def candidates(target: Target, outputs: int) -> tuple[Tile, ...]:
    """What can be used for so many outputs, best known first."""
    # what is not named takes the smaller ones: 12.0 has less shared memory than 9.0 and no such instructions
    tiles = INTERPRETED if target.capability is None else TILES.get(target.capability, TILES[8, 9])
    return tuple(tile for tile in tiles if outputs % tile.n == 0)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [O, C, kt, kh, kw] -> (w8 [O, kt, kh, kw, C] E4M3 contiguous, w_scale [O] fp32)."""
    rows = weight.detach().movedim(1, -1)
    w8, scale = quantize_rows(rows.flatten(1), FP8)
    return w8.view(rows.shape).contiguous(), scale.flatten()


@dataclass(frozen=True, slots=True)
class Arguments:
    """x8 [B, C, T', H', W'] E4M3, densely channels-last, with the zeros around; w8 [O, kt, kh, kw, C] of
    `quantize_weight`; scale [O] fp32, of inputs times weights -> [B, O, T, H, W] of out_dtype, channels-last,
    without a bias: T = T' - kt + 1, and likewise H and W.
    """

    x8: Tensor
    w8: Tensor
    scale: Tensor
    _: KW_ONLY
    out_dtype: torch.dtype


def _check(args: Arguments) -> None:
    x8, w8 = args.x8, args.w8
    assert x8.ndim == 5 and x8.dtype == w8.dtype == FP8.dtype, f"{tuple(x8.shape)} {x8.dtype} {w8.dtype}"
    assert x8.is_contiguous(memory_format=torch.channels_last_3d), f"strides {x8.stride()}: not channels-last"
    assert w8.ndim == 5 and w8.shape[-1] == x8.shape[1], f"weight {tuple(w8.shape)} for {tuple(x8.shape)}"
    assert w8.is_contiguous() and args.scale.shape == w8.shape[:1], (w8.stride(), tuple(args.scale.shape))
    assert min(_out_shape(args)) > 0, f"nothing is left of {tuple(x8.shape)} by taps {tuple(w8.shape[1:4])}"


def _out_shape(args: Arguments) -> tuple[int, ...]:
    taps = args.w8.shape[1:4]
    sizes = (size - tap + 1 for size, tap in zip(args.x8.shape[2:], taps, strict=True))
    return (args.x8.shape[0], args.w8.shape[0], *sizes)


def _plain(args: Arguments) -> Tensor:
    """What it stands for: the convolution of the rounded values in fp32."""
    wide = F.conv3d(args.x8.float(), args.w8.float().movedim(-1, 1))
    scaled = wide * args.scale[:, None, None, None]
    return scaled.to(args.out_dtype).contiguous(memory_format=torch.channels_last_3d)


@jit
def _store(acc, scale_ptr, out_ptr, row, column, outputs, mask):  # type: ignore[no-untyped-def]
    """A tile of sums, scaled, at the pixels `row` of the output."""
    scale = tl.load(scale_ptr + column)
    target = out_ptr + row.to(tl.int64)[:, None] * outputs + column[None, :]
    tl.store(target, to_element(acc * scale[None, :], out_ptr), mask=mask[:, None])


@jit
def _kernel(  # type: ignore[no-untyped-def]
    x, w, w_rest, scale_ptr, out_ptr, num_pixels, frames, in_frames, in_height, in_width, out_height,
    out_width, outputs, tiles_m, tiles_n,
    CHANNELS: tl.constexpr, KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, REST_N: tl.constexpr, BLOCK_K: tl.constexpr, MAPS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M pixels of one frame, BLOCK_N + REST_N of its outputs (REST_N may be 0). With MAPS
    x, w and w_rest are tensor maps, else pointers. Neighbours share pixels, which stay in the L2 cache."""
    CHUNKS: tl.constexpr = CHANNELS // BLOCK_K
    SIZE_K: tl.constexpr = KT * KH * KW * CHANNELS
    program = tl.program_id(0)
    first_n = (program % tiles_n) * (BLOCK_N + REST_N)
    tile = program // tiles_n
    out_frame = tile // tiles_m  # of all batch rows
    in_frame = out_frame // frames * in_frames + out_frame % frames
    first = in_frame * in_height * in_width + tile % tiles_m * BLOCK_M
    pixel = tile % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    column = first_n + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if REST_N > 0:
        rest = first_n + BLOCK_N + tl.arange(0, REST_N)
        acc_rest = tl.zeros((BLOCK_M, REST_N), dtype=tl.float32)
    if not MAPS:
        weights = w + column.to(tl.int64)[None, :] * SIZE_K + k[:, None]
        if REST_N > 0:
            weights_rest = w + rest.to(tl.int64)[None, :] * SIZE_K + k[:, None]
    for step in range(SIZE_K // BLOCK_K):
        tap = step // CHUNKS
        channel = step % CHUNKS * BLOCK_K
        distance = (tap // (KW * KH) * in_height + tap // KW % KH) * in_width + tap % KW
        if MAPS:
            a = x.load([first + distance, channel])
            b = w.load([first_n, step * BLOCK_K]).T
        else:
            # what lies behind the input belongs to no pixel of the output
            place = tl.minimum(first + distance + tl.arange(0, BLOCK_M), num_pixels - 1).to(tl.int64)
            a = tl.load(x + place[:, None] * CHANNELS + channel + k[None, :])
            b = tl.load(weights + step * BLOCK_K)
        acc = tl.dot(a, b, acc)
        if REST_N > 0:
            if MAPS:
                b_rest = w_rest.load([first_n + BLOCK_N, step * BLOCK_K]).T
            else:
                b_rest = tl.load(weights_rest + step * BLOCK_K)
            acc_rest = tl.dot(a, b_rest, acc_rest)
    line, z = pixel // in_width, pixel % in_width
    row = (out_frame * out_height + line) * out_width + z
    mask = (line < out_height) & (z < out_width)
    _store(acc, scale_ptr, out_ptr, row, column, outputs, mask)
    if REST_N > 0:
        _store(acc_rest, scale_ptr, out_ptr, row, rest, outputs, mask)


def _parts(n: int) -> tuple[int, int]:
    """n as a power of two and a smaller one, or 0: what tiles of Triton have."""
    first = 1 << (n.bit_length() - 1)
    return first, n - first


def _fp8_conv(args: Arguments) -> Tensor:
    """The operator."""
    device = args.x8.device
    target = Target.of(device) if device.type == "cuda" else Target(kind="cpu", capability=None)
    outputs, channels = args.w8.shape[0], args.w8.shape[-1]
    return start(args, _preferred.get().get((channels, outputs)) or candidates(target, outputs)[0])


def start(args: Arguments, tile: Tile) -> Tensor:
    """The convolution with a given tile."""
    x8, w8 = args.x8, args.w8
    shape = _out_shape(args)
    batch, outputs, frames, out_height, out_width = shape
    channels, in_frames, in_height, in_width = x8.shape[1:]
    block_n, rest_n = _parts(tile.n)
    block_k = min(MAX_BLOCK_K, channels & -channels)
    out = torch.empty(shape, dtype=args.out_dtype, device=x8.device, memory_format=torch.channels_last_3d)
    num_pixels = x8[:, 0].numel()
    assert num_pixels < 2**31, f"{tuple(x8.shape)} has more pixels than 32 bits count"
    tiles_m, tiles_n = ceil_div(out_height * in_width, tile.m), outputs // tile.n
    x: Any = x8.permute(0, 2, 3, 4, 1).reshape(num_pixels, channels)
    w: Any = w8.flatten(1)
    w_rest = w
    if tile.maps:
        x = tensor_map(x, [tile.m, block_k])
        w_rest = tensor_map(w, [rest_n or block_n, block_k])
        w = tensor_map(w, [block_n, block_k])
    _, kt, kh, kw, _ = w8.shape
    wrap(_kernel)[(tiles_n * tiles_m * frames * batch,)](
        x, w, w_rest, args.scale, out, num_pixels, frames, in_frames, in_height, in_width, out_height,
        out_width, outputs, tiles_m, tiles_n,
        CHANNELS=channels, KT=kt, KH=kh, KW=kw, BLOCK_M=tile.m, BLOCK_N=block_n, REST_N=rest_n,
        BLOCK_K=block_k, MAPS=tile.maps, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out


_launch = operator("retake::fp8_conv", Arguments, _fp8_conv)

run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
