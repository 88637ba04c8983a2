"""A clip and its continuation as one mp4: the clip's size, shape of pixels, rate and sound.

Knows no run. A generator reads a clip squeezed into its own size, whatever the clip's shape, so a take is
stretched back to the clip's: what is round in the one is round in the other, and no bars are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Final

import av
from av.audio.resampler import AudioResampler

from engine.errors import VideoError
from engine.types import Clip, Frames
from engine.video.containers import opened, whole_mp4
from engine.video.files import h264_stream, probe, resample_indices, stream_frames
from engine.video.pixels import is_turned, yuv_of
from engine.video.prefix import nearest_frame
from engine.video.times import presentation_times, shown_frames

COPIED: Final = ("aac", "mp3", "alac", "ac3", "eac3", "opus")
"""Sound that an mp4 holds as it is; any other is encoded as AAC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What was written; `silent` is why there is no sound, `sound` how it came in."""

    width: int
    height: int
    fps: float
    seconds: float
    sound: str | None = None
    silent: str | None = None


def join(clip: Clip, take: Path, path: Path, *, with_prefix: bool) -> Joined:
    """Write the take as a continuation of `clip` to `path`, with the clip in front or alone. Atomic.

    A frame of the clip or of the take is shown at each 1 / `clip.fps`, the nearest by time. Of an odd size a
    line or a column is left out, which H.264 in 4:2:0 cannot have. Raises VideoError for either file.
    """
    width, height = clip.width - clip.width % 2, clip.height - clip.height % 2
    made = probe(take)
    frames: Iterable[Frames] = _continued(made, clip.fps, width, height)
    count = len(_of_take(made, clip.fps))
    if with_prefix:
        order = _of_clip(clip)
        frames, count = chain(_in_order(clip, order, width, height), frames), count + len(order)
    silent: str | None = "the take alone has no sound"
    sound = None
    with whole_mp4(path) as target:
        shape = _pixel_shape(clip.path)
        stream = h264_stream(target, width, height, clip.fps)
        stream.codec_context.sample_aspect_ratio = shape
        if with_prefix:
            sound, silent = _add_sound(clip.path, target)
        for rgb in frames:
            target.mux(stream.encode(yuv_of(rgb)))
        target.mux(stream.encode(None))
    return Joined(
        width=width, height=height, fps=clip.fps, seconds=count / clip.fps, sound=sound, silent=silent
    )


def _of_clip(clip: Clip) -> list[int]:
    """The frame of the clip at each 1 / `clip.fps`: the nearest, as the rate may vary."""
    times, rate = presentation_times(clip.path), Fraction(clip.fps).limit_denominator(1_000_000)
    return [nearest_frame(times, number / rate) for number in range(round(times[-1] * rate) + 1)]


def _of_take(take: Clip, fps: float) -> list[int]:
    return resample_indices(take.num_frames, take.fps, fps)


def _continued(take: Clip, fps: float, width: int, height: int) -> Iterator[Frames]:
    yield from _in_order(take, _of_take(take, fps), width, height)


def _in_order(clip: Clip, order: list[int], width: int, height: int) -> Iterator[Frames]:
    """Frames by ascending indices, some of them several times; one is in memory at a time."""
    wanted = iter(order)
    index = next(wanted, None)
    unique = sorted(set(order))
    for number, frame in zip(
        unique, stream_frames(clip, width=width, height=height, indices=unique), strict=True
    ):
        while index == number:
            yield frame
            index = next(wanted, None)


def _pixel_shape(path: Path) -> Fraction:
    """Width by height of a pixel as it is shown upright."""
    first = shown_frames(path).first
    with opened(path) as (_, stream):
        shape = Fraction(stream.sample_aspect_ratio or 1)
    return 1 / shape if is_turned(path, first) else shape


def _add_sound(path: Path, target: Any) -> tuple[str | None, str | None]:
    """How the sound of `path` came into `target`, or None and why it did not."""
    begin_s = next(iter(shown_frames(path).times), Fraction(0))  # of the picture: what is before it is cut
    with opened(path) as (container, _):
        if not container.streams.audio:
            return None, "the clip has no sound"
        sound = container.streams.audio[0]
        name = sound.codec_context.codec.canonical_name
        try:
            if name in COPIED:
                _copy(container, sound, target, begin_s)
                return f"{name}, as it is in the clip", None
            _encode(container, sound, target, begin_s)
        except (av.FFmpegError, ValueError, VideoError) as error:
            return None, f"the clip's sound ({name}) cannot be put into an mp4: {error}"
        return f"aac, encoded from {name}", None


def _copy(container: Any, sound: Any, target: Any, begin_s: Fraction) -> None:
    copy = target.add_stream_from_template(sound)
    offset = round(begin_s / sound.time_base)
    for packet in container.demux(sound):
        if packet.pts is None or packet.pts < offset:
            continue
        packet.pts, packet.dts = packet.pts - offset, packet.pts - offset
        packet.stream = copy
        target.mux(packet)


def _encode(container: Any, sound: Any, target: Any, begin_s: Fraction) -> None:
    encoded = target.add_stream("aac", rate=sound.rate, layout=sound.layout.name)
    resampler = AudioResampler(format="fltp", layout=encoded.layout, rate=encoded.rate)
    offset = round(begin_s * encoded.rate)
    for frame in chain(container.decode(sound), (None,)):
        for part in resampler.resample(frame):
            part.pts = None if part.pts is None else part.pts - offset
            target.mux(encoded.encode(part))
    target.mux(encoded.encode(None))
