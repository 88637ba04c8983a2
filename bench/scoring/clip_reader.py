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
from engine.video.motion_masks import Gray
from engine.video.pixels import is_upright

ENCODERS = {"h264": "libx264", "mpeg4": "mpeg4"}
"""By decoder: what small clips are made by; a clip of another codec is decoded twice."""
SAMPLE_SHAPE = (6, 50, 74, 3)
"""Frames, height, width, channels: neither side is a multiple of what kernels take at a time."""
PLAIN, NEUTRAL = "yuv420p", 128
"""The format in which a frame without colour has this value in both of its chroma planes."""


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
    memory: Frames | None = None
    for found in _decoded(path, num_frames, threads):
        if isinstance(found, np.ndarray):
            yield found
        else:
            memory = bgr(found, memory)
            yield memory


def read_channel(path: Path, num_frames: int, threads: int = 1) -> Iterator[Gray]:
    """The first channel of each frame of `read_clip`, and as it: uint8 [H, W], valid until the next one.

    A frame without colour, as those of masks, gives it by its luma alone, in half the time.
    """
    memory: Frames | None = None
    channel: Any = None
    for found in _decoded(path, num_frames, threads):
        if isinstance(found, np.ndarray):
            channel = cv2.extractChannel(found, 0, channel)
        elif (table := _table_of(found)) is not None:
            channel = cv2.LUT(_rows(found.planes[0]), table, channel)
        else:
            memory = bgr(found, memory)
            channel = cv2.extractChannel(memory, 0, channel)
        yield channel


def _decoded(path: Path, num_frames: int, threads: int) -> Iterator[Any]:
    """PyAV's frames, all of one size, while `bgr` makes OpenCV's of them; from there on OpenCV's pictures."""
    codec, first, taken = read_header(path).codec, None, 0
    for frame in whole_clip(path, threads):
        if taken == num_frames:
            continue  # for damage alone
        kind = Kind.of(codec, frame), frame.height, frame.width
        if first is None:
            first = kind
            if not _begins_alike(path, frame, kind[0]):
                break
        if kind != first:
            break
        yield frame
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
    rows = _rows(plane, 3)
    found = np.empty(rows.shape, np.uint8) if out is None else out
    np.copyto(found, rows)
    return found


def _rows(plane: Any, channels: int = 1) -> Frames:
    """uint8 [H, W] or [H, W, channels] of a plane in place, valid as long as its frame."""
    shape, strides = (plane.height, plane.width), (plane.line_size, channels)
    many = channels > 1
    return np.ndarray((*shape, *[channels] * many), np.uint8, plane, strides=(*strides, *[1] * many))


def _table_of(frame: Any) -> Gray | None:
    """[256], of each luma the first channel of `bgr`; None where the frame has colour, or luma does not
    decide it alone."""
    if frame.format.name != PLAIN or frame.height % 2 or frame.width % 2:  # another conversion is theirs
        return None
    if any((_rows(plane) != NEUTRAL).any() for plane in frame.planes[1:]):
        return None
    return luma_table(int(frame.colorspace), int(frame.color_range))


@functools.cache
def luma_table(matrix: int, color_range: int) -> Gray | None:
    """Of frames of 4:2:0 in 8 bits, as this FFmpeg converts them; None where noise comes out otherwise."""
    levels = np.arange(256, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, SAMPLE_SHAPE[1:3], dtype=np.uint8)
    gray, other = (_without_colour(luma, matrix, color_range) for luma in (np.stack([levels] * 2), noise))
    table = np.ascontiguousarray(bgr(gray)[0, :, 0])
    return table if np.array_equal(table[noise], bgr(other)[..., 0]) else None


def _without_colour(luma: Gray, matrix: int, color_range: int) -> Any:
    """A frame of this luma [H, W], of even sides."""
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], PLAIN)
    first, *chroma = map(_rows, frame.planes)
    first[:] = luma
    for plane in chroma:
        plane[:] = NEUTRAL
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


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
