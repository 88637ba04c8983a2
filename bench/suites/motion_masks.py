"""Clips and masks from files, reduced for scoring, read and written with OpenCV like the official evaluator.

Knows no dataset layout. Masks of a generated clip go through an mp4v file and back, because codec ringing
decides ties at half cover. Streams frame by frame: only the reduced clip stays in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.suites.view_metrics import ReducedClip, reduce_frame
from engine.errors import VideoError
from engine.motion import Gray, motion_masks, write_masks
from engine.types import ANSWER_SECONDS, Frames


def frames_bgr(path: Path) -> Iterator[Frames]:
    """uint8 BGR [H, W, 3], one after the other. Raises VideoError when none can be read."""
    capture = cv2.VideoCapture(str(path))
    try:
        found, frame = capture.read()
        if not found:
            raise VideoError(f"{path} is missing or not a readable video", fix="put a complete mp4 there")
        while found:
            yield np.asarray(frame, np.uint8)
            found, frame = capture.read()
    finally:
        capture.release()


def num_considered(fps: float) -> int:
    """Frames that count: those whose index is below fps * 5 s."""
    return int(np.ceil(fps * ANSWER_SECONDS - 1e-9))


def load_real(clip: Path, masks: Path, size: tuple[int, int], fps: float) -> ReducedClip:
    """A reference clip with the masks that ship with the data; computed when `masks` does not exist."""
    if masks.is_file():
        return ReducedClip(frames=_reduced(clip, size, fps), masks=_reduced_masks(masks, size, fps))
    return load_generated(clip, size, fps)


def load_generated(clip: Path, size: tuple[int, int], fps: float) -> ReducedClip:
    """A clip of any size with its masks computed at that size."""
    with tempfile.TemporaryDirectory(prefix="retake-masks-") as folder:
        path = Path(folder) / "masks.mp4"
        write_masks(path, motion_masks(_grays(clip)), fps)
        return ReducedClip(frames=_reduced(clip, size, fps), masks=_reduced_masks(path, size, fps))


def _grays(path: Path) -> Iterator[Gray]:
    for frame in frames_bgr(path):
        yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)


def _reduced(path: Path, size: tuple[int, int], fps: float) -> Frames:
    return np.stack([reduce_frame(frame, size) for frame in islice(frames_bgr(path), num_considered(fps))])


def _reduced_masks(path: Path, size: tuple[int, int], fps: float) -> NDArray[np.bool_]:
    frames = islice(frames_bgr(path), num_considered(fps))
    return np.stack([reduce_frame(frame[:, :, 0], size) > 127 for frame in frames])
