"""Clips and masks from files as whole reduced clips in memory: the plain reader, which `clip_stream` equals.

Reads and writes with OpenCV like the official evaluator; knows no dataset layout. Masks of a generated clip
go through an mp4v file and back, because codec ringing decides ties at half cover. Invariant: a clip has
exactly the frames that count; one with fewer is refused, as the official tool does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.scoring.clip_stream import num_considered
from bench.scoring.view_metrics import ReducedClip, reduce_frame
from engine.errors import VideoError
from engine.types import Frames
from engine.video.motion_masks import Gray, motion_masks, write_masks


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


def load_real(clip: Path, masks: Path, size: tuple[int, int], fps: float) -> ReducedClip:
    """A reference clip with the masks that ship with the data; computed when `masks` does not exist.

    Raises VideoError when either cannot be read or is shorter than 5 s.
    """
    if not masks.is_file():
        return load_generated(clip, size, fps)
    count = num_considered(fps)
    frames = _stacked((reduce_frame(frame, size) for frame in _first(clip, fps)), clip, count)
    return ReducedClip(frames=frames, masks=_read_masks(masks, size, fps))


def load_generated(clip: Path, size: tuple[int, int], fps: float) -> ReducedClip:
    """A clip of any size with its masks computed at that size. Raises VideoError as `load_real` does."""
    reduced: list[Frames] = []

    def grays() -> Iterator[Gray]:
        for frame in _first(clip, fps):
            reduced.append(reduce_frame(frame, size))
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)

    with tempfile.TemporaryDirectory(prefix="retake-masks-") as folder:
        path = Path(folder) / "masks.mp4"
        write_masks(path, motion_masks(grays()), fps)
        frames = _stacked(iter(reduced), clip, num_considered(fps))
        return ReducedClip(frames=frames, masks=_read_masks(path, size, fps))


def _first(path: Path, fps: float) -> Iterator[Frames]:
    """The frames that count. A mask depends on earlier frames only, so that later ones need no decoding."""
    return islice(frames_bgr(path), num_considered(fps))


def _read_masks(path: Path, size: tuple[int, int], fps: float) -> NDArray[np.bool_]:
    masks = (reduce_frame(frame[:, :, 0], size) > 127 for frame in _first(path, fps))
    return _stacked(masks, path, num_considered(fps))


def _stacked(pictures: Iterator[NDArray[Any]], path: Path, count: int) -> NDArray[Any]:
    found = list(pictures)
    if len(found) != count:
        raise VideoError(
            f"{path} has {len(found)} frames; the first {count} are compared, so at least {count} are needed",
            fix="put a clip of 5 s at the frame rate of its folder there",
        )
    return np.stack(found)
