"""Video files to frames and back: probing, reading, presentation times and atomic H.264 writing, all by PyAV.

Knows neither datasets nor models, and imports no torch. Invariant: a clip is either read whole or refused;
no function returns fewer frames than the file announces.
Legend: T pixel frames . H, W pixels. Frames are uint8 RGB [T, H, W, 3].
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.reformatter import Interpolation

from engine.errors import VideoError
from engine.types import Clip, Frames
from kernels.files import whole_file

OPEN_EVENT: Final = "retake.video.open"
"""The audit event of every video file that is read; its argument is the path."""

ENCODER_THREADS: Final = 4
"""x264's pictures depend on its thread count, also at constant quality. By default that is the machine's, and
equal frames would give other files, scores and digests on a machine with another number of cores."""

_REPLACE = "replace the file with a complete one (copy or download it again)"
_BT601 = (
    6  # AVCOL_SPC_SMPTE170M: written into the header, because players guess BT.709 for untagged large clips
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When each frame that a player shows is on screen, from the first one on, in seconds."""

    times_s: tuple[float, ...]
    seconds: float
    upright: bool  # no rotation tag


def read_header(path: Path) -> Header:
    """The header alone, quick whatever the length; for truncation see `probe`. Raises VideoError."""
    with _opened(path) as (container, stream):
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


def read_timeline(path: Path) -> Timeline:
    """Presentation times from the packets; decodes one frame. Raises VideoError as `probe` does."""
    clip = probe(path)
    starts: list[float] = []
    end_s = 0.0
    upright = True
    with _opened(path) as (container, stream):
        for packet in _shown(container, stream):
            if packet.pts is None:
                continue
            starts.append(float(packet.pts * packet.time_base))
            end_s = max(end_s, starts[-1] + float((packet.duration or 0) * packet.time_base))
    if not starts:
        raise VideoError(f"{path} has no timestamps", fix="write it again with a constant frame rate")
    with _opened(path) as (container, stream):
        upright = int(next(container.decode(stream)).rotation) % 360 == 0
    first_s = min(starts)
    times_s = tuple(sorted(start_s - first_s for start_s in starts))
    return Timeline(
        times_s=times_s, seconds=max(end_s - first_s, times_s[-1] + 1 / clip.fps), upright=upright
    )


def presentation_times(clip: Clip) -> list[Fraction]:
    """When each frame that decodes is on screen, from the first one on, in seconds, ascending.

    From the packets; from the decoded frames where packets are no frames or have no times.
    Raises VideoError where there is no frame.
    """
    with _opened(clip.path) as (container, stream):
        shown = list(_shown(container, stream))
        times = sorted(p.pts * p.time_base for p in shown if p.pts is not None)
    if not len(times) == len(shown) == clip.num_frames:
        with _opened(clip.path) as (container, stream):
            frames = [(f.pts, f.time_base) for f in container.decode(stream)]
        if any(pts is None or base is None for pts, base in frames):
            raise VideoError(
                f"{clip.path} has frames without a time", fix="write it again with a constant frame rate"
            )
        times = sorted(pts * base for pts, base in frames)
    if not times:
        raise VideoError(f"{clip.path} holds no video frame; at least 1 is needed", fix=_REPLACE)
    return [time - times[0] for time in times]


def probe(path: Path) -> Clip:
    """What the header says, with the packets counted against it. Decodes one frame only.

    Raises VideoError when the file is missing, is not a video, is truncated or holds no frame.
    """
    with _opened(path) as (container, stream):
        announced = stream.frames
        rate = stream.average_rate or stream.guessed_rate
        packets = 0
        first: Any = None
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            packets += not packet.is_corrupt  # set on a packet of which the file holds only a part
            if first is None:
                first = next(iter(packet.decode()), None)
        if first is None:
            first = next(iter(stream.decode(None)), None)  # a decoder with delay still holds it
    if packets == 0 or first is None:
        raise VideoError(f"{path} holds no video frame; at least 1 is needed", fix=_REPLACE)
    if packets < announced:
        raise VideoError(
            f"{path} is truncated: its header announces {announced} frames, the file holds {packets}",
            fix=_REPLACE,
        )
    if not rate:
        raise VideoError(f"{path} states no frame rate", fix="write it again with a constant frame rate")
    turned = int(first.rotation) % 180 != 0
    width, height = (first.height, first.width) if turned else (first.width, first.height)
    return Clip(path=path, fps=float(rate), num_frames=announced or packets, width=width, height=height)


def probe_or_expect(path: Path, fps: float, num_frames: int) -> Clip:
    """The header of `path`; when it cannot be read, the expected one at 0x0, for a later check to refuse."""
    try:
        return probe(path)
    except VideoError:
        return Clip(path=path, fps=fps, num_frames=num_frames, width=0, height=0)


def read_frames(
    clip: Clip | Path,
    *,
    width: int | None = None,
    height: int | None = None,
    indices: Collection[int] | None = None,
) -> Frames:
    """Decoded frames, uint8 RGB [T, H, W, 3]; with `indices` only those frames, in ascending order.

    `width` and `height` (both or neither) resize by area averaging when shrinking, bicubic otherwise; the
    aspect ratio is not kept. Raises VideoError as `probe` does, and when fewer frames decode than announced.
    """
    clip = clip if isinstance(clip, Clip) else probe(clip)
    frames = list(stream_frames(clip, width=width, height=height, indices=indices))
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
) -> Iterator[Frames]:
    """As `read_frames`, one frame [H, W, 3] at a time; a clip that is cut short raises at its end."""
    assert (width is None) == (height is None), f"give both width and height, got {width} and {height}"
    keep = None if indices is None else frozenset(indices)
    size = (width or clip.width, height or clip.height)
    decoded = 0
    with _opened(clip.path) as (container, stream):
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if keep is None or decoded in keep:
                yield _to_rgb(frame, *size)
            decoded += 1
    if decoded != clip.num_frames:
        raise VideoError(
            f"{clip.path} is truncated or damaged: {decoded} frames decode, "
            f"its header announces {clip.num_frames}",
            fix=_REPLACE,
        )


def is_readable(path: Path) -> bool:
    """Whether `probe` takes it: a whole video, as far as can be told without decoding."""
    try:
        probe(path)
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
            f"{clip.path} has {clip.num_frames} frames ({clip.seconds:.3f} s at {clip.fps:g} fps); "
            f"{num_frames} ± {slack} frames ({num_frames / fps:.3f} s) are needed",
            fix=f"cut it to {num_frames / fps:.3f} s",
        )


def write_mp4(path: Path, frames: Frames, fps: float, *, crf: int = 14) -> None:
    """Write uint8 RGB [T, H, W, 3] as H.264 yuv420p with exactly `fps`; H and W even, T at least 1.

    Atomic: a process killed half way leaves no partial file under `path`. The default quality keeps codec
    noise far below the 14 grey levels at which the benchmark sees motion.
    """
    assert frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8, (
        f"{frames.shape} {frames.dtype}"
    )
    encode_mp4(path, frames, fps, crf=crf)


def encode_mp4(path: Path, frames: Iterable[Frames], fps: float, *, crf: int = 14) -> None:
    """As `write_mp4`, from single frames uint8 RGB [H, W, 3], at least one; it holds one at a time."""
    stream_of = iter(frames)
    first = next(stream_of, None)
    assert first is not None, "no frames to write"
    height, width, _ = first.shape
    assert height % 2 == 0 and width % 2 == 0, f"H.264 4:2:0 needs even sizes: {first.shape}"
    with _whole_mp4(path) as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # x264's macroblock tree reads memory that it never wrote where the width is no multiple of 128: equal
        # frames gave unequal files, and whatever looks at a stored take would depend on chance.
        stream.options = {"crf": str(crf), "preset": "medium", "mbtree": "0"}
        stream.codec_context.thread_count = ENCODER_THREADS
        stream.codec_context.colorspace = _BT601
        for rgb in chain((first,), stream_of):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=_BT601)))
        container.mux(stream.encode(None))


def remux_mp4(source: Path, path: Path, fps: float) -> None:
    """Copy the packets of the first video stream into an mp4 of its own: no frame is decoded. Atomic.

    `source` has one frame every 1 / `fps`; times are written anew from that, as some containers round them
    to milliseconds and leave decoding times out. Raises VideoError.
    """
    with _whole_mp4(path) as target, _opened(source) as (container, stream):
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in container.demux(stream) if packet.size]
        shown = [round(packet.pts * packet.time_base * Fraction(fps)) for packet in packets]
        delay = max(place - index for place, index in zip(sorted(shown), shown, strict=True))
        for packet, index, place in zip(packets, shown, sorted(shown), strict=True):
            packet.stream, packet.time_base = copy, 1 / Fraction(fps).limit_denominator(1001)
            packet.pts, packet.dts, packet.duration = index, place - delay, 1
            target.mux(packet)


def resample_indices(num_frames: int, fps_from: float, fps_to: float) -> list[int]:
    """For each frame of the same duration at `fps_to`: the source frame that is on screen at its time."""
    assert num_frames >= 1 and fps_from > 0 and fps_to > 0, f"{num_frames} frames, {fps_from} to {fps_to} fps"
    count = max(1, round(num_frames * fps_to / fps_from))
    return [min(num_frames - 1, int(index * fps_from / fps_to + 1e-6)) for index in range(count)]


def _shown(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of what a player shows: discarded ones lie before the start of a clip that was only cut."""
    return (packet for packet in container.demux(stream) if packet.size and not packet.is_discard)


@contextmanager
def _whole_mp4(path: Path) -> Iterator[Any]:
    """A container that appears under `path` when the block is done, and not at all when it fails."""
    try:
        with (
            whole_file(path) as part,
            av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container,
        ):
            yield container
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be written: {error.strerror}", fix="check the space and the rights of its folder"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Container and first video stream; every PyAV failure inside the block becomes a VideoError."""
    if not path.is_file():
        raise VideoError(
            f"{path} does not exist or is not a file", fix="check the path or copy the clip there"
        )
    # PyAV opens files natively, which no audit hook sees unless it is said; see `engine.loop.boundary`.
    sys.audit(OPEN_EVENT, str(path))
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} holds no video stream", fix="give a video file such as H.264 mp4")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        size = path.stat().st_size
        raise VideoError(
            f"{path} ({size} bytes) is not a readable video, or is truncated: {error.strerror}", fix=_REPLACE
        ) from error


def _to_rgb(frame: Any, width: int, height: int) -> Frames:
    """One decoded frame as upright RGB [H, W, 3]."""
    turns = (int(frame.rotation) // 90) % 4  # phones store portrait clips sideways with a rotation tag
    target = (height, width) if turns % 2 else (width, height)
    shrinks = target[0] * target[1] < frame.width * frame.height
    rgb: Frames = frame.to_ndarray(
        format="rgb24",
        width=target[0],
        height=target[1],
        interpolation=Interpolation.AREA if shrinks else Interpolation.BICUBIC,
    )
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
