"""Where and how much a take moves, window by window: the critic's vocabulary for what is seen and expected.

Computed from pixels alone, so the same words describe true, planted and generated takes. Comparing two
such descriptions gives the truth label of a take (accept or revise) for training and measuring the critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from engine.types import Frames

WINDOW_FRAMES: Final = 5  # 0.625 s at 8 fps: 8 windows in an answer of 40 frames
GRID: Final = 16  # cells a side in which a place is told
ANALYSIS_PX: Final = 32
CHANGE_LEVELS: Final = 12.0  # grey levels that count as change
AMOUNTS: Final = ("no", "weak", "clear", "strong")
AMOUNT_PIXELS: Final = (1.0, 8.0, 30.0)  # changed pixels a frame (of 32 x 32) from which a word applies
ACCEPT_SCORE: Final = 70.0


@dataclass(frozen=True, slots=True)
class Window:
    """Motion of one window: `amount` indexes AMOUNTS; x, y are cells of the GRID, -1 when nothing moves."""

    amount: int
    x: int
    y: int

    def text(self, end_s: float) -> str:
        if self.amount == 0:
            return f"{end_s:.1f} s: no motion"
        return f"{end_s:.1f} s: {AMOUNTS[self.amount]} motion at {self.x},{self.y}"


def motion_windows(frames: Frames, window_frames: int = WINDOW_FRAMES) -> list[Window]:
    """Windows of uint8 [T, H, W, 3]; frame 0 is only the predecessor of frame 1, so T = 1 + k windows."""
    grey = np.stack(
        [
            cv2.resize(
                cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY),
                (ANALYSIS_PX, ANALYSIS_PX),
                interpolation=cv2.INTER_AREA,
            )
            for frame in frames
        ]
    ).astype(np.float32)
    ys, xs = np.mgrid[0:ANALYSIS_PX, 0:ANALYSIS_PX] * (GRID / ANALYSIS_PX)
    windows = []
    for start in range(0, len(grey) - window_frames, window_frames):
        # against the frame before the window, not frame to frame: slow melting or heating is motion too
        change = np.abs(grey[start + 1 : start + 1 + window_frames] - grey[start])
        change[change < CHANGE_LEVELS] = 0.0
        pixels = float((change > 0).sum()) / window_frames
        amount = int(np.searchsorted(AMOUNT_PIXELS, pixels, side="right"))
        if amount == 0:
            windows.append(Window(0, -1, -1))
            continue
        weight = change.sum(axis=0)
        total = float(weight.sum())
        windows.append(Window(amount, int((weight * xs).sum() / total), int((weight * ys).sum() / total)))
    return windows


def window_mismatch(seen: Window, expected: Window) -> float:
    """0 (same) to 1: a missing or extra motion counts by its amount, else place (70 %) and amount (30 %)."""
    if seen.amount == 0 or expected.amount == 0:
        return min(abs(seen.amount - expected.amount) / 2, 1.0)
    distance = float(np.hypot(seen.x - expected.x, seen.y - expected.y))
    return 0.7 * min(distance / 5.0, 1.0) + 0.3 * min(abs(seen.amount - expected.amount) / 2, 1.0)


def agreement_score(seen: list[Window], expected: list[Window]) -> float:
    """100 for equal descriptions, 0 for nothing in common; a take is acceptable from ACCEPT_SCORE on."""
    mismatches = [window_mismatch(a, b) for a, b in zip(seen, expected, strict=True)]
    return 100.0 * (1.0 - float(np.mean(mismatches)))
