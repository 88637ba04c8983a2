"""Where clips of one scene differ: what they do not agree on is what their makers left open.

Knows no loop. N clips . T frames . H, W pixels . y, x cells
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.types import Frames

CELL_PX = 8


def disagreement(clips: Iterable[Frames]) -> NDArray[np.float32]:
    """Variance over N clips [T, H, W, 3] of equal size of the mean of each cell of CELL_PX, the mean of the
    colours: float32 [T, y, x]. One clip is held at a time."""
    shown = np.stack([_cells(frames) for frames in clips])  # [N, T, y, x, 3]
    found: NDArray[np.float32] = shown.var(axis=0).mean(axis=-1, dtype=np.float32)
    return found


def _cells(frames: Frames) -> NDArray[np.float32]:
    _, height, width, _ = frames.shape
    size = math.ceil(width / CELL_PX), math.ceil(height / CELL_PX)
    return np.stack(
        [cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_AREA) for frame in frames]
    )
