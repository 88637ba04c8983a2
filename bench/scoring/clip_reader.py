"""The frames of a clip as the official evaluator reads them, of a clip that is whole.

The official evaluator reads by OpenCV, whose conversion to BGR decides bits and which gives what its decoder
made up of a damaged file like any other frame. PyAV tells damage. Both are FFmpeg: where their frames are
equal one decode serves, else PyAV looks for damage and OpenCV reads behind it. Whether they are equal is
asked of the libraries at hand, by a small clip of the same codec, format and colours, and of each clip's
first frame. Invariant: the frames are OpenCV's, whichever way they were read.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation

from engine.errors import VideoError
from engine.types import Frames
from engine.video.files import read_header, refuse_damaged, whole_clip
from engine.video.pixels import is_upright

ENCODERS = {"h264": "libx264", "mpeg4": "mpeg4"}
"""By decoder: what small clips are made by; a clip of another codec is decoded twice."""
SAMPLE_SHAPE = (6, 50, 74, 3)
"""Frames, height, width, channels: neither side is a multiple of what kernels take at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What decides how a frame becomes BGR, but for its size."""

    codec: str
    pixel_format: str
    matrix: int  # ITU-T H.273
    color_range: int  # AVCOL_RANGE_*

    @classmethod
    def of(cls, codec: str, frame: Any) -> Self:
        return cls(
            codec=codec,
            pixel_format=frame.format.name,
            matrix=int(frame.colorspace),
            color_range=int(frame.color_range),
        )


def read_clip(path: Path, num_frames: int, threads: int = 1) -> Iterator[Frames]:
    """The first `num_frames`, or as many as there are: uint8 BGR [H, W, 3], valid until the next one.

    Raises VideoError when the file is no clip that OpenCV reads, and at a damaged frame, also behind the last
    that was asked for. `threads` is per clip: a frame-threaded decoder holds a frame for each.
    """
    codec, kind, taken = read_header(path).codec, None, 0
    picture = np.empty((0, 0, 3), np.uint8)
    for frame in whole_clip(path, threads):
        if taken == num_frames:
            continue  # for damage alone
        if kind is None:
            kind, picture = Kind.of(codec, frame), np.empty((frame.height, frame.width, 3), np.uint8)
            if not _begins_alike(path, frame, kind):
                break
        if Kind.of(codec, frame) != kind or (frame.height, frame.width) != picture.shape[:2]:
            break
        yield bgr(frame, picture)
        taken += 1
    else:
        return
    refuse_damaged(path, threads)
    yield from islice(read_by_opencv(path, threads), taken, num_frames)


def _begins_alike(path: Path, frame: Any, kind: Kind) -> bool:
    """Whether the first frame, and by it all that follow, are read by PyAV as by OpenCV."""
    first = next(read_by_opencv(path))
    plain = is_upright(path, frame) and not frame.interlaced_frame
    return plain and reads_alike(kind) and np.array_equal(bgr(frame), first)


def read_by_opencv(path: Path, threads: int = 1) -> Iterator[Frames]:
    """uint8 BGR [H, W, 3]; each frame is overwritten by the next one. VideoError when none can be read."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    try:
        found, frame = capture.read()
        if not found:
            raise VideoError(
                f"{path} is missing or not a readable video (OpenCV reads no AV1)",
                fix="put a complete mp4 there; `retake prepare` writes H.264",
            )
        while found:
            yield frame
            found, frame = capture.read(frame)
    finally:
        capture.release()


def bgr(frame: Any, out: Frames | None = None) -> Frames:
    """uint8 BGR [H, W, 3] as OpenCV converts: bicubic chroma, by the frame's own matrix and range.

    `out`, of that shape, is filled: memory that is used again, for fresh pages of a 4K frame cost more than
    its conversion.
    """
    (plane,) = frame.reformat(format="bgr24", interpolation=int(Interpolation.BICUBIC), threads=1).planes
    rows = np.ndarray((plane.height, plane.width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))
    found = np.empty(rows.shape, np.uint8) if out is None else out
    np.copyto(found, rows)
    return found


@functools.cache
def reads_alike(kind: Kind) -> bool:
    """Whether PyAV and OpenCV, as they are installed, read equal frames from clips of a kind: noise, in which
    every frame holds all that a codec can do. False where no such clip can be made."""
    if kind.codec not in ENCODERS:
        return False
    with tempfile.TemporaryDirectory(prefix="retake-alike-") as folder:
        path = Path(folder) / "sample.mp4"
        try:
            _write_sample(path, kind)
            by_opencv = [frame.copy() for frame in read_by_opencv(path)]
            frames = list(whole_clip(path))
        except (VideoError, av.FFmpegError, ValueError):
            return False
        if {Kind.of(kind.codec, frame) for frame in frames} != {kind} or len(frames) != SAMPLE_SHAPE[0]:
            return False
        return len(by_opencv) == len(frames) and all(map(np.array_equal, map(bgr, frames), by_opencv))


def _write_sample(path: Path, kind: Kind) -> None:
    """Blurred noise, other in each frame. av.FFmpegError or ValueError where no such clip can be."""
    noise = np.random.default_rng(0).integers(0, 256, SAMPLE_SHAPE, dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(ENCODERS[kind.codec], rate=8)
        stream.height, stream.width = SAMPLE_SHAPE[1:3]
        stream.pix_fmt = kind.pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = kind.matrix, kind.color_range
        for picture in noise:
            frame = av.VideoFrame.from_ndarray(cv2.GaussianBlur(picture, (3, 3), 0), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=kind.pixel_format)))
        container.mux(stream.encode(None))
