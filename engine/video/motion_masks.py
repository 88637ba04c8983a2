"""Motion masks as the Physics-IQ benchmark defines them: which pixels differ from a running background.

Works on frames at their own resolution and knows neither datasets nor scores. Threshold and kernels
are in pixels of the clip, as in the benchmark; nothing is normalized. Streams: one frame in, one mask out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import VideoError
from engine.types import Frames

BLUR_PX = (5, 5)  # sigma 0: derived from the size, 1.1 px
BACKGROUND_RATE = 0.3
THRESHOLD = 10  # grey levels, strict
KERNEL_PX = (5, 5)

Gray = NDArray[np.uint8]
"""uint8 [H, W]; masks hold 0 or 255."""


def motion_masks(grays: Iterable[Gray]) -> Iterator[Gray]:
    """One mask [H, W] per gray frame [H, W]; the first is empty.

    Blur, running average updated *before* the difference (so that a change of x grey levels shows as 0.7 x),
    threshold, morphological opening, then closing.
    """
    blurred: Any = None
    average: Any = None
    difference: Any = None  # memory that is used again: fresh pages cost as much as the arithmetic
    for gray in grays:
        blurred = cv2.GaussianBlur(gray, BLUR_PX, 0, blurred)
        if average is None:
            background, average = blurred.astype(np.float64), np.empty_like(blurred)
            yield np.zeros_like(gray)
            continue
        cv2.accumulateWeighted(blurred, background, BACKGROUND_RATE)
        average = cv2.convertScaleAbs(background, average)
        difference = cv2.absdiff(blurred, average, difference)
        yield _cleaned(cv2.threshold(difference, THRESHOLD, 255, cv2.THRESH_BINARY, difference)[1])


def _cleaned(mask: Any) -> Gray:
    """Opened and closed, but only around what is on: neither filter adds anything outside its rectangle.

    Each looks two kernel radii far and takes what lies past an edge for neutral, so that many 0 stay around.
    """
    cleaned: Gray = np.zeros_like(mask)
    left, top, width, height = cv2.boundingRect(mask)
    if width:
        reach = 2 * (max(KERNEL_PX) // 2)
        part = np.s_[max(0, top - reach) : top + height + reach, max(0, left - reach) : left + width + reach]
        kernel = np.ones(KERNEL_PX, np.uint8)
        opened = cv2.morphologyEx(mask[part], cv2.MORPH_OPEN, kernel)
        cleaned[part] = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, kernel)
    return cleaned


def masks_of(frames: Frames) -> NDArray[np.uint8]:
    """Masks uint8 {0, 255} [T, H, W] of RGB frames uint8 [T, H, W, 3]."""
    return np.stack(list(motion_masks(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)))


def write_masks(path: Path, masks: Iterable[Gray], fps: float) -> None:
    """Write masks [H, W], at least one, as the benchmark does: `mp4v`, one channel, even size, whole fps.

    Atomic. Raises VideoError when this OpenCV cannot encode mp4v.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")  # the writer goes by the suffix .mp4
    writer: Any = None
    try:
        for mask in masks:
            height, width = mask.shape[0] // 2 * 2, mask.shape[1] // 2 * 2
            if writer is None:
                code = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(partial), code, round(fps), (width, height), isColor=False)
            if not writer.isOpened():
                raise VideoError(
                    "this OpenCV build cannot write mp4v, the codec of the benchmark's masks",
                    fix="install the opencv-python-headless wheel that pyproject.toml names",
                )
            writer.write(np.ascontiguousarray(mask[:height, :width]))
        assert writer is not None, "no masks to write"
        writer.release()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
