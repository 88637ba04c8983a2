"""Video files to frames and back: probing, reading and atomic H.264 writing, all by PyAV.

Knows neither datasets nor models, and imports no torch. Invariant: a clip is either read whole or refused;
no function returns other frames than a player shows.
Legend: T pixel frames . H, W pixels. Frames are uint8 RGB [T, H, W, 3].
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from engine.errors import VideoError
from engine.types import Clip, Frames
from engine.video.containers import REPLACE, decoded_frames, opened, whole_mp4
from engine.video.pixels import (
    BT601_MATRIX,
    BT709,
    LIMITED_RANGE,
    is_mirrored,
    orientation,
    refuse_colours,
    upright_rgb,
    upright_size,
    yuv_of,
)
from engine.video.times import count_by_packets, no_frame, shown_frames
from engine.words import counted

ENCODER_THREADS: Final = 8
"""x264's pictures depend on its thread count, also at constant quality. By default that is the machine's, and
equal frames would give other files, scores and digests on a machine with another number of cores."""

PROBES: Final = 4
"""A clip in 4K takes a third of a second, nearly all of it in FFmpeg, and has some 100 MB of frames."""

_NOTE = "retake: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself. 0 stands for a number that it does not state."""

    path: Path
    container: str  # as FFmpeg names it: "mov,mp4,m4a,3gp,3g2,mj2"
    codec: str
    pixel_format: str
    fps: float  # average
    base_fps: float  # the lowest at which every timestamp falls on a frame
    num_frames: int
    width: int
    height: int
    container_s: float
    num_streams: int


def read_header(path: Path) -> Header:
    """The header alone, quick whatever the length; for truncation see `probe`. Raises VideoError."""
    with opened(path) as (container, stream):
        return Header(
            path=path,
            container=container.format.name,
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt or "",
            fps=float(stream.average_rate or 0),
            base_fps=float(stream.base_rate or 0),
            num_frames=stream.frames,
            width=stream.width,
            height=stream.height,
            container_s=(container.duration or 0) / av.time_base,
            num_streams=len(container.streams),
        )


def probe(path: Path) -> Clip:
    """Rate, size and the number of frames that a player shows. Decodes all of them only where it has to.

    Raises VideoError when the file is missing, is not a video, is truncated, holds no frame, or has colours
    or an orientation that are not read.
    """
    shown = shown_frames(path)
    refuse_colours(path, shown.first)
    if shown.rate is None:
        raise VideoError(f"{path} states no frame rate", fix="write it again with a constant frame rate")
    width, height = upright_size(path, shown.first)
    return Clip(path=path, fps=float(shown.rate), num_frames=shown.count, width=width, height=height)


def refuse_damaged(path: Path, threads: int = 0) -> None:
    """Decode all of a clip for those who copy it, or read its pixels by a library that tells no damage.

    `threads` of the decoder, each of which holds a frame; 0: one a core. Raises VideoError as `read_frames`,
    but for colours and orientation: whoever reads the pixels asks for these.
    """
    for _ in whole_clip(path, threads, pixels=False):
        pass


def whole_clip(path: Path, threads: int = 0, *, pixels: bool = True) -> Iterator[Any]:
    """Every frame as it decodes (av.VideoFrame), without `pixels` for its number alone. Raises VideoError as
    `refuse_damaged`: at a damaged frame, and behind the last where others were counted."""
    expected, decoded = count_by_packets(path), 0
    with opened(path) as (container, stream):
        for frame in decoded_frames(path, container, stream, threads, pixels=pixels):
            yield frame
            decoded += 1
    if not decoded:
        raise no_frame(path)
    if expected is not None:
        _check_count(path, decoded, expected)


def refuse_mirrored(path: Path) -> None:
    """Raise VideoError for a clip that OpenCV reads wrongly: of a display matrix it takes the angle alone."""
    with opened(path) as (container, stream):
        if is_mirrored(path, next(decoded_frames(path, container, stream))):
            raise VideoError(
                f"{path} is mirrored by its display matrix; the evaluator, by OpenCV, reads it without that",
                fix="encode the picture as it is shown; `retake prepare` does that for submissions",
            )


def probe_each(paths: Sequence[Path], *, fps: float, num_frames: int) -> list[Clip]:
    """`probe` of each, several at a time; of one that cannot be read, what is expected, at 0x0, which
    `probed` refuses."""

    def probe_or_expect(path: Path) -> Clip:
        try:
            return probe(path)
        except VideoError:
            return Clip(path=path, fps=fps, num_frames=num_frames, width=0, height=0)

    with ThreadPoolExecutor(PROBES, "retake-probe") as threads:
        return list(threads.map(probe_or_expect, paths))


def probed(clip: Clip) -> Clip:
    """A clip of `probe_each`; raises VideoError as `probe` does where it could not be read."""
    return clip if clip.width else probe(clip.path)


def read_frames(
    clip: Clip | Path,
    *,
    width: int | None = None,
    height: int | None = None,
    indices: Collection[int] | None = None,
    like_opencv: bool = False,
) -> Frames:
    """Decoded frames, uint8 RGB [T, H, W, 3]; with `indices` only those frames, in ascending order.

    `width` and `height` (both or neither) resize by area averaging when shrinking, bicubic otherwise; the
    aspect ratio is not kept. `like_opencv` gives, at the clip's own size, the bits that OpenCV reads. Raises
    VideoError as `probe` does, and when other frames decode than were counted or one is damaged.
    """
    clip = clip if isinstance(clip, Clip) else probe(clip)
    frames = list(stream_frames(clip, width=width, height=height, indices=indices, like_opencv=like_opencv))
    assert indices is None or len(frames) == len(set(indices)), f"indices {sorted(indices)}"
    return (
        np.stack(frames) if frames else np.zeros((0, height or clip.height, width or clip.width, 3), np.uint8)
    )


def stream_frames(
    clip: Clip,
    *,
    width: int | None = None,
    height: int | None = None,
    indices: Collection[int] | None = None,
    like_opencv: bool = False,
) -> Iterator[Frames]:
    """As `read_frames`, one frame [H, W, 3] at a time; a clip that is cut short raises at its end."""
    assert (width is None) == (height is None), f"give both width and height, got {width} and {height}"
    keep = None if indices is None else frozenset(indices)
    size = (width or clip.width, height or clip.height)
    decoded, turned = 0, None
    with opened(clip.path) as (container, stream):
        for frame in decoded_frames(clip.path, container, stream):
            turned = turned or orientation(clip.path, frame)
            if keep is None or decoded in keep:
                yield upright_rgb(clip.path, frame, *size, turned, like_opencv=like_opencv)
            decoded += 1
    _check_count(clip.path, decoded, clip.num_frames)


def is_readable(path: Path) -> bool:
    """Whether `read_frames` takes it: a whole video, and no frame of it made up by the decoder."""
    try:
        probe(path)
        refuse_damaged(path)
    except VideoError:
        return False
    return True


def check_clip(clip: Clip, *, fps: float, num_frames: int, slack: int = 1) -> None:
    """Raise VideoError unless `clip` has this frame rate and, within `slack` frames, this length."""
    if abs(clip.fps - fps) > 0.01:
        raise VideoError(
            f"{clip.path} has {clip.fps:g} frames per second; {fps:g} is needed",
            fix=f"put a clip of {fps:g} frames per second there",
        )
    if abs(clip.num_frames - num_frames) > slack:
        raise VideoError(
            f"{clip.path} has {counted(clip.num_frames, 'frame')} ({clip.seconds:.3f} s at {clip.fps:g} "
            f"fps); {num_frames} ± {counted(slack, 'frame')} ({num_frames / fps:.3f} s) are needed",
            fix=f"cut it to {num_frames / fps:.3f} s",
        )


def write_mp4(path: Path, frames: Frames, fps: float, *, crf: int = 14, note: str | None = None) -> None:
    """Write uint8 RGB [T, H, W, 3] as H.264 yuv420p with exactly `fps`; H and W even, T at least 1.

    `note` is kept in the file, for `read_note`. Atomic: a process killed half way leaves no partial file. The
    default quality keeps codec noise far below the 14 grey levels at which the benchmark sees motion.
    """
    assert frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8, (
        f"{frames.shape} {frames.dtype}"
    )
    encode_mp4(path, frames, fps, crf=crf, note=note)


def encode_mp4(
    path: Path, frames: Iterable[Frames], fps: float, *, crf: int = 14, note: str | None = None
) -> None:
    """As `write_mp4`, from single frames uint8 RGB [H, W, 3], at least one; it holds one at a time."""
    stream_of = iter(frames)
    first = next(stream_of, None)
    assert first is not None, "no frames to write"
    height, width, _ = first.shape
    assert height % 2 == 0 and width % 2 == 0, f"H.264 4:2:0 needs even sizes: {first.shape}"
    with whole_mp4(path) as container:
        if note is not None:
            container.metadata["comment"] = _NOTE + note
        stream = h264_stream(container, width, height, fps, crf=crf)
        for rgb in chain((first,), stream_of):
            container.mux(stream.encode(yuv_of(rgb)))
        container.mux(stream.encode(None))


def h264_stream(container: Any, width: int, height: int, fps: float, *, crf: int = 14) -> Any:
    """A stream of `container` for frames of `yuv_of`, which gives equal bytes for equal frames everywhere."""
    stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    # x264's macroblock tree reads memory that it never wrote where the width is no multiple of 128: equal
    # frames gave unequal files, and whatever looks at a stored take would depend on chance.
    stream.options = {"crf": str(crf), "preset": "medium", "mbtree": "0"}
    stream.codec_context.thread_count = ENCODER_THREADS
    # Written into the header at every size: players guess BT.709 for large clips that state nothing.
    stream.codec_context.colorspace = BT601_MATRIX
    stream.codec_context.color_range = LIMITED_RANGE
    stream.codec_context.color_primaries = stream.codec_context.color_trc = BT709
    return stream


def read_note(path: Path) -> str | None:
    """What `write_mp4` noted in the file; None if there is nothing, or no file that can be read."""
    try:
        # Few takes have a note, and looking for its mark takes a tenth of what FFmpeg needs to open a file.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(_NOTE.encode()) < 0:
                return None
        with opened(path) as (container, _):
            comment = container.metadata.get("comment", "")
    except (VideoError, OSError, ValueError):  # ValueError: an empty file
        return None
    return comment[len(_NOTE) :] if comment.startswith(_NOTE) else None


def remux_mp4(source: Path, path: Path, fps: float) -> None:
    """Copy the packets of the first video stream into an mp4 of its own: no frame is decoded. Atomic.

    `source` has one frame every 1 / `fps`; times are written anew from that, as some containers round them
    to milliseconds and leave decoding times out. Raises VideoError.
    """
    with whole_mp4(path) as target, opened(source) as (container, stream):
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in container.demux(stream) if packet.size]
        shown = [round(packet.pts * packet.time_base * Fraction(fps)) for packet in packets]
        delay = max(place - index for place, index in zip(sorted(shown), shown, strict=True))
        for packet, index, place in zip(packets, shown, sorted(shown), strict=True):
            packet.stream, packet.time_base = copy, 1 / Fraction(fps).limit_denominator(1001)
            packet.pts, packet.dts, packet.duration = index, place - delay, 1
            target.mux(packet)


def _check_count(path: Path, decoded: int, num_frames: int) -> None:
    if decoded != num_frames:
        raise VideoError(
            f"{path} is truncated or damaged: {counted(decoded, 'frame decodes', 'frames decode')}, of the "
            f"{num_frames} counted in it",
            fix=REPLACE,
        )


def resample_indices(num_frames: int, fps_from: float, fps_to: float) -> list[int]:
    """For each frame of the same duration at `fps_to`: the source frame that is on screen at its time."""
    assert num_frames >= 1 and fps_from > 0 and fps_to > 0, f"{num_frames} frames, {fps_from} to {fps_to} fps"
    count = max(1, round(num_frames * fps_to / fps_from))
    return [min(num_frames - 1, int(index * fps_from / fps_to + 1e-6)) for index in range(count)]
