"""One convolution of a decoder, 16 frames of it: cuDNN in bf16 as the fused decoder runs it, and in other
layouts, beside every tile of the FP8 kernel."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.perf.vae.decoding import SPENT, relative
from engine.autoencoder.causal_conv import pair_up, paired_columns
from kernels import dispatch, timing
from kernels.conv import fp8
from kernels.descriptors import Target
from kernels.fused.formats import FP8, to_format

Row = dict[str, Any]
LAST = torch.channels_last_3d


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A causal 3 x 3 x 3 convolution; `calls`: how many of a decoder's residual blocks are like it."""

    channels: int
    outputs: int
    height: int
    width: int
    calls: int
    paired: bool = False
    """Whether the fused decoder takes its columns in pairs on Hopper."""
    frames: int = 16

    def __str__(self) -> str:
        return f"{self.channels} to {self.outputs} at {self.width}x{self.height}, {self.frames} frames"

    @property
    def tflop(self) -> float:
        return 54e-12 * self.channels * self.outputs * self.height * self.width * self.frames


SHAPES: Final = {
    "480p": (
        Shape(channels=96, outputs=96, height=480, width=832, calls=6, paired=True),
        Shape(channels=192, outputs=192, height=240, width=416, calls=6),
        Shape(channels=384, outputs=384, height=120, width=208, calls=5, frames=8),
        Shape(channels=192, outputs=384, height=120, width=208, calls=1, frames=8),
        Shape(channels=384, outputs=384, height=60, width=104, calls=10, frames=4),
    ),
    "720p": (
        Shape(channels=256, outputs=256, height=352, width=640, calls=5),
        Shape(channels=512, outputs=256, height=352, width=640, calls=1),
        Shape(channels=512, outputs=512, height=176, width=320, calls=5),
        Shape(channels=1024, outputs=512, height=176, width=320, calls=1),
        Shape(channels=1024, outputs=1024, height=88, width=160, calls=6, frames=8),
        Shape(channels=1024, outputs=1024, height=44, width=80, calls=10, frames=4),
    ),
    "tiny": (Shape(channels=32, outputs=64, height=4, width=6, calls=1, frames=2, paired=True),),
}


def measured(shape: Shape, rounds: int, device: torch.device, deadline_s: float) -> list[Row]:
    """A row for each way to do it."""
    rows, usable = list[Row](), dict[str, timing.Function]()
    problem = f"convolution {shape}"
    for name, function, expected, allowed, about in _ways(shape, device):
        row: Row = {"problem": problem, "name": name, "reason": None, **about}
        rows.append(row)
        if time.perf_counter() > deadline_s:
            row["reason"] = SPENT
            continue
        try:
            row["error"] = relative(function(), expected)
            if not row["error"] <= allowed:
                row["reason"] = f"relative error {row['error']:.3g}, allowed {allowed:g}: not timed"
                continue
        except dispatch.failures(AssertionError) as fault:  # shared memory, or what a card does not have
            row["reason"] = f"{type(fault).__name__}: {str(fault).strip()[:300]}"
            continue
        usable[name] = function
    times = timing.alternate(usable, rounds, warmup=2, device=device.type) if usable else {}
    for row in rows:
        if row["name"] in times:
            row |= {"ms": times[row["name"]], "summary": asdict(timing.summary(times[row["name"]]))}
            row["tflop_per_s"] = shape.tflop / row["summary"]["median"] * 1e3
    return rows


Candidate = tuple[str, Any, Tensor, float, Row]
"""(name, what is timed, what it should give, error that is allowed, what else the row says)"""


def fastest_tiles(rows: Sequence[Row]) -> dict[tuple[int, int], fp8.Tile]:
    """By (channels, outputs) the FP8 tile that was fastest at the largest picture that was measured."""
    found: dict[tuple[int, int], tuple[str, float]] = {}
    tiles: dict[tuple[int, int], fp8.Tile] = {}
    for row in rows:
        if "tile" in row and "summary" in row:
            channels, outputs = row["size"]
            problem, fastest = found.setdefault((channels, outputs), (row["problem"], math.inf))
            if row["problem"] == problem and (median := row["summary"]["median"]) < fastest:
                found[channels, outputs] = problem, median
                tiles[channels, outputs] = fp8.Tile(**row["tile"])
    return tiles


def _ways(shape: Shape, device: torch.device) -> Iterator[Candidate]:
    generator = torch.Generator(device).manual_seed(0)
    size = (1, shape.channels, shape.frames + 2, shape.height + 2, shape.width + 2)
    x = F.silu(torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16))
    for edge in (x[..., :1, :], x[..., -1:, :], x[..., :1], x[..., -1:]):
        edge.zero_()
    weight = (
        torch.randn(
            (shape.outputs, shape.channels, 3, 3, 3), generator=generator, device=device, dtype=torch.bfloat16
        )
        * (27 * shape.channels) ** -0.5
    )
    inner = x[..., 1:-1, 1:-1]
    expected = F.conv3d(inner.contiguous(), weight, padding=(0, 1, 1)).float()
    for layout, name in ((torch.contiguous_format, "planes"), (LAST, "channels last")):
        given = inner.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
        yield (
            f"cuDNN bf16, {name}",
            functools.partial(F.conv3d, *given, padding=(0, 1, 1)),
            expected,
            0.01,
            {},
        )
    last = x.contiguous(memory_format=LAST)
    if shape.paired:
        columns, taps = pair_up(last[..., 1:-1, :].contiguous(memory_format=LAST)), paired_columns(weight)
        in_pairs = functools.partial(F.conv3d, columns, taps, padding=(0, 1, 0))
        yield "cuDNN bf16, columns paired", in_pairs, pair_up(expected), 0.01, {}
    unit = last.abs().max().float() / FP8.max
    x8 = to_format(last.float() / unit, FP8).contiguous(memory_format=LAST)
    forms = [("", x8, weight, expected)]
    if shape.paired:
        forms.append((", columns paired", pair_up(x8), paired_columns(weight), pair_up(expected)))
    target = Target.of(device)
    for name, codes, taps, exact in forms:
        w8, scale = fp8.quantize_weight(taps)
        given8 = fp8.Arguments(codes, w8, scale * unit, out_dtype=torch.bfloat16)
        if target.capability is None:
            plain = functools.partial(fp8.plain, codes, w8, scale * unit, out_dtype=torch.bfloat16)
            yield f"FP8, plain torch{name}", plain, exact, fp8.MAX_RELATIVE_ERROR, {}
            continue
        for tile in fp8.candidates(target, w8.shape[0]):
            start = functools.partial(fp8.start, given8, tile)
            about = {"tile": asdict(tile), "size": [codes.shape[1], w8.shape[0]]}
            yield f"FP8, {tile}{name}", start, exact, fp8.MAX_RELATIVE_ERROR, about
