"""Squared errors of one frame against several, in blocks that stay in the processor's cache.

Bit-equal to `view_metrics.squared_error`, which adds up as numpy does: halves of halves, each half's length a
multiple of 8. The same tree is walked here, and numpy adds up its lower branches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.types import Frames

BLOCK = 65_536  # values; two float32 blocks fit into 1 MB, with the bytes that they are made of
UNITS = np.float32(255)
FrameErrors = Callable[[Frames, Sequence[Frames]], list[float]]
"""A frame and several others to their mean squared differences."""


class SquaredErrors:
    """For frames of one size. Holds its scratch memory; not for several threads."""

    def __init__(self) -> None:
        self._mine, self._theirs = (np.empty(BLOCK, np.float32) for _ in range(2))

    def __call__(self, frame: Frames, others: Sequence[Frames]) -> list[float]:
        """Mean squared difference to each of `others`, in units of 1/255."""
        flat = [np.ascontiguousarray(picture).reshape(-1) for picture in (frame, *others)]
        sums = self._sums(flat, 0, frame.size)
        return [float(total / np.float32(frame.size)) for total in sums]

    def _sums(self, flat: Sequence[Any], start: int, length: int) -> list[np.float32]:
        if length > BLOCK:
            half = length // 2
            half -= half % 8
            low = self._sums(flat, start, half)
            high = self._sums(flat, start + half, length - half)
            return [np.float32(a + b) for a, b in zip(low, high, strict=True)]
        mine, theirs = self._mine[:length], self._theirs[:length]
        first, *others = (values[start : start + length] for values in flat)
        np.divide(first, UNITS, out=mine, dtype=np.float32)
        sums = []
        for values in others:
            np.divide(values, UNITS, out=theirs, dtype=np.float32)
            np.subtract(mine, theirs, out=theirs)
            np.square(theirs, out=theirs)
            sums.append(np.add.reduce(theirs))
        return sums
