"""What is wrong with a take at a glance: nothing to see, or nothing that moves. Said of it, never a refusal.

A black picture may be asked for and a still scene may stay still; but a run in which takes are so by a fault
of weights, numbers or settings has scores like any other.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from engine.types import Frames

ALL_BLACK: Final = "all black"
FROZEN: Final = "frozen"

_BLACK = 16  # grey levels: what a coder makes of black lies below
_STILL = 4  # grey levels, of averages over 8x8 pixels: above the noise of a decoder, far below any motion
_BLOCK_PX = 8


def oddity_of(frames: Frames) -> str | None:
    """ALL_BLACK, FROZEN or None, of uint8 RGB [T, H, W, 3]; one frame alone is not frozen."""
    height, width = frames.shape[1:3]
    size = (max(1, width // _BLOCK_PX), max(1, height // _BLOCK_PX))
    darkest = brightest = _blocks(frames[0], size)
    for frame in frames[1:]:
        blocks = _blocks(frame, size)
        darkest, brightest = np.minimum(darkest, blocks), np.maximum(brightest, blocks)
    if brightest.max() <= _BLACK and frames.max() <= 2 * _BLACK:
        return ALL_BLACK
    return FROZEN if len(frames) > 1 and (brightest - darkest).max() <= _STILL else None


def _blocks(frame: Frames, size: tuple[int, int]) -> Frames:
    """Means of blocks, uint8 [h, w, 3]."""
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
