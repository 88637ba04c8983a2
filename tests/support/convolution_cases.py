"""The FP8 convolutions of published decoders, for triton_offline.py; no test of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from triton_case import BF16, FP8, FP32, Case, empty

from kernels.conv import fp8 as fp8_conv
from kernels.descriptors import Target


def convolution_cases(capability: tuple[int, int]) -> Iterator[Case]:
    """Those of the decoders of Wan2.1, of 96 channels also as pairs of columns, and of Wan2.2."""
    target = Target(kind="cuda", capability=capability)
    sizes = [(96, 96, 3), (192, 192, 2), (192, 384, 3), (384, 384, 3), (512, 256, 3), (1024, 1024, 3)]
    for channels, outputs, columns in sizes if capability >= (8, 9) else ():
        x8 = empty(1, channels, 4, 62, 106, dtype=FP8).to(memory_format=torch.channels_last_3d)
        w8, scale = empty(outputs, 3, 3, columns, channels, dtype=FP8), empty(outputs, dtype=FP32)
        for rank, tile in enumerate(fp8_conv.candidates(target, outputs)):
            yield Case(
                name=f"fp8 convolution {channels} to {outputs}, {columns} columns {tile}",
                call=partial(fp8_conv.start, fp8_conv.Arguments(x8, w8, scale, out_dtype=BF16), tile),
                few=rank == 0 and outputs in (192, 1024),
            )
