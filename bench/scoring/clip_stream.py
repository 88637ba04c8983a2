"""Clips decoded one frame at a time for scoring: a pass over a file yields its reduced frames and its masks.

Knows no dataset and no cache; frames are those of `clip_reader`. Invariant: a few frames of a clip are in
memory at most, and nothing is returned of a clip that is damaged.
Legend: T frames . h, w reduced pixels . masks packed to bits [h * w / 8].
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.scoring.clip_reader import read_channel, read_clip
from bench.scoring.view_metrics import reduce_frame
from engine.errors import VideoError
from engine.types import ANSWER_SECONDS, Frames
from engine.video.motion_masks import Gray, motion_masks, write_masks
from engine.words import counted

Packed = NDArray[np.uint8]
FrameSink = Callable[[Frames], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionRecord:
    """The reduced masks of one clip, at a 150th of their size as frames."""

    packed: Packed  # [T, h * w / 8], rows of pixels as bits
    counts: NDArray[np.uint16]  # [h, w], frames with motion

    @property
    def share(self) -> NDArray[np.float64]:
        """`view_metrics.motion_share` of the masks."""
        return np.asarray(self.counts / len(self.packed), np.float64)

    @property
    def ever(self) -> NDArray[np.bool_]:
        return np.asarray(self.counts > 0, np.bool_)


def num_considered(fps: float) -> int:
    """Frames that count: those whose index is below fps * 5 s."""
    return int(np.ceil(fps * ANSWER_SECONDS - 1e-9))


def stream_clip(
    path: Path, size: tuple[int, int], fps: float, num_frames: int, sink: FrameSink, threads: int = 1
) -> MotionRecord:
    """Hand the first `num_frames` reduced frames to `sink` and compute the clip's masks in the same pass.

    Masks go through an mp4v file and back, as the official ones do: codec ringing decides ties at half cover.
    Raises VideoError when the clip is shorter or damaged.
    """
    decoded = 0

    def grays() -> Iterator[Gray]:
        nonlocal decoded
        gray: Any = None
        for frame in read_clip(path, num_frames, threads):
            sink(reduce_frame(frame, size))
            decoded += 1
            gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY, gray)
            yield gray

    with tempfile.TemporaryDirectory(prefix="retake-masks-") as folder:
        masks = Path(folder) / "masks.mp4"
        write_masks(masks, motion_masks(grays()), fps)
        _check_length(path, decoded, num_frames)
        return read_masks(masks, size, num_frames, threads=threads)


def stream_frames(
    path: Path, size: tuple[int, int], num_frames: int, sink: FrameSink, threads: int = 1
) -> tuple[int, int]:
    """Hand the first `num_frames` reduced frames to `sink`; (H, W) of the clip. VideoError when shorter
    or damaged."""
    decoded, shape = 0, (0, 0)
    for frame in read_clip(path, num_frames, threads):
        shape = (frame.shape[0], frame.shape[1])
        sink(reduce_frame(frame, size))
        decoded += 1
    _check_length(path, decoded, num_frames)
    return shape


def read_masks(
    path: Path,
    size: tuple[int, int],
    num_frames: int,
    *,
    clip_shape: tuple[int, int] | None = None,
    threads: int = 1,
) -> MotionRecord:
    """Masks from a file, on above 127 after the reduction. `clip_shape` (H, W) is that of the clip masked,
    where another wrote the file.

    Raises VideoError when there are fewer than `num_frames`, they are of another size than the clip, or the
    file is damaged.
    """
    counts = np.zeros((size[1], size[0]), np.uint16)
    packed: list[Packed] = []
    for channel in read_channel(path, num_frames, threads):
        if clip_shape is not None and not packed:
            _check_shape(path, channel.shape, clip_shape)
        mask = reduce_frame(channel, size) > 127
        counts += mask
        packed.append(np.packbits(mask))
    _check_length(path, len(packed), num_frames)
    return MotionRecord(packed=np.stack(packed), counts=counts)


def packed_iou(a: Packed, b: Packed) -> float:
    """`view_metrics.iou` of two packed masks: the counts are integers, so the quotient is the same."""
    union = int(np.bitwise_count(a | b).sum())
    return int(np.bitwise_count(a & b).sum()) / union if union else 1.0


def _check_length(path: Path, found: int, needed: int) -> None:
    if found != needed:
        raise VideoError(
            f"{path} has {counted(found, 'frame')} that decode; the first {needed} are compared, so as "
            "many are needed",
            fix="put a complete clip of 5 s at the frame rate of its folder there",
        )


def _check_shape(path: Path, found: tuple[int, ...], clip: tuple[int, int]) -> None:
    height, width = clip[0] // 2 * 2, clip[1] // 2 * 2  # masks are cropped to even size
    if found != (height, width):
        raise VideoError(
            f"{path} has masks of {found[1]}x{found[0]} pixels, the clip they belong to {clip[1]}x{clip[0]}",
            fix="download the masks of this dataset again, or remove them all: absent masks are computed",
        )
