"""When the frames of a clip are shown, how many there are, and the rate that follows.

From the packets where each is one frame for certain, else from the frames themselves: a packet may hold none,
a frame that is never shown, or one that an edit list leaves out. Invariant: a frame counted here is one that
`engine.video.files` reads, and no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from engine.errors import VideoError
from engine.video.containers import (
    REPLACE,
    decoded_frames,
    opened,
    picture_packets,
)
from engine.video.pixels import is_upright

KNOWN_RATES: Final = tuple(
    Fraction(n, d)
    for n, d in [(24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1), (60000, 1001), (60, 1)]
) + tuple(Fraction(rate) for rate in (5, 6, 8, 10, 12, 15, 16, 20, 48, 100, 120))
"""Rates that a clip of constant rate is taken to have if its times agree, to the tick of their clock."""

_EACH_PACKET_A_FRAME = frozenset({"h264", "ffv1", "mjpeg", "prores", "rawvideo", "png"})
_CONSTANT = "write it again with a constant frame rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When each frame that a player shows is on screen, from the first one on, in seconds."""

    times_s: tuple[float, ...]
    seconds: float
    upright: bool  # neither turned nor mirrored by a display matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFrames:
    """The frames that a player shows. Times are seconds on the clock of the stream."""

    first: Any  # av.VideoFrame, as it decodes
    count: int
    times: tuple[Fraction, ...]  # ascending; empty where the file states none
    end: Fraction  # when the last one leaves the screen, 0 where it is not stated
    tick: Fraction  # of the clock: times are rounded to it
    stated_rates: tuple[Fraction, ...]

    @property
    def rate(self) -> Fraction | None:
        """Frames per second: the rate to which all times agree, else the mean; None if nothing is known."""
        if len(self.times) < 2 or self.times[-1] == self.times[0]:
            return next(iter(self.stated_rates), None)
        fitting = (rate for rate in (*self.stated_rates, *KNOWN_RATES) if self._fits(rate))
        return next(fitting, (len(self.times) - 1) / (self.times[-1] - self.times[0]))

    def _fits(self, rate: Fraction) -> bool:
        return all(
            abs(time - self.times[0] - index / rate) <= self.tick for index, time in enumerate(self.times)
        )


def shown_frames(path: Path) -> ShownFrames:
    """Decodes the first frame, and all of them where packets do not tell. Raises VideoError as `probe`."""
    packets = _read_packets(path)
    times: list[int | None] = [pts for pts, _ in packets.shown]
    with opened(path) as (container, stream):
        frames = decoded_frames(path, container, stream, 1 if packets.each_a_frame else 0)
        first = next(frames, None)
        if first is None:
            raise no_frame(path)
        if not packets.each_a_frame or first.interlaced_frame:  # a packet may be one field of two
            times = [first.pts, *(frame.pts for frame in frames)]
    known = [pts for pts in times if pts is not None]
    end = max((pts + duration for pts, duration in packets.shown if pts is not None), default=0)
    return ShownFrames(
        first=first,
        count=len(times),
        times=tuple(sorted(pts * packets.tick for pts in known)) if len(known) == len(times) else (),
        end=end * packets.tick,
        tick=packets.tick,
        stated_rates=packets.rates,
    )


def count_by_packets(path: Path) -> int | None:
    """How many frames a player shows; None where packets do not tell. Raises VideoError as `probe`."""
    packets = _read_packets(path)
    if not packets.each_a_frame:
        return None
    with opened(path) as (container, stream):
        first = next(decoded_frames(path, container, stream, 1), None)
    if first is None:
        raise no_frame(path)
    return None if first.interlaced_frame else len(packets.shown)


def no_frame(path: Path) -> VideoError:
    return VideoError(f"{path} holds no video frame; at least 1 is needed", fix=REPLACE)


def presentation_times(path: Path) -> list[Fraction]:
    """When each frame that decodes is on screen, from the first one on, in seconds, ascending.

    Raises VideoError where there is no frame, or one without a time.
    """
    times = shown_frames(path).times
    if not times:
        raise VideoError(f"{path} has frames without a time", fix=_CONSTANT)
    return [time - times[0] for time in times]


def read_timeline(path: Path) -> Timeline:
    """Presentation times as seconds. Raises VideoError as `presentation_times` does."""
    shown = shown_frames(path)
    if not shown.times or shown.rate is None:
        raise VideoError(f"{path} has frames without a time", fix=_CONSTANT)
    first, last = shown.times[0], shown.times[-1]
    return Timeline(
        times_s=tuple(float(time - first) for time in shown.times),
        seconds=float(max(shown.end - first, last - first + 1 / shown.rate)),
        upright=is_upright(path, shown.first),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packets:
    """Those that are shown: presentation time and duration in ticks."""

    shown: tuple[tuple[int | None, int], ...]
    each_a_frame: bool
    tick: Fraction
    rates: tuple[Fraction, ...]


def _read_packets(path: Path) -> _Packets:
    with opened(path) as (container, stream):
        rates = (stream.base_rate, stream.average_rate, stream.guessed_rate)
        shown = tuple(_times_of_packets(path, container, stream))
        return _Packets(
            shown=shown,
            each_a_frame=_each_is_a_frame(stream, [pts for pts, _ in shown]),
            tick=stream.time_base,
            rates=tuple(rate for rate in rates if rate),
        )


def _times_of_packets(path: Path, container: Any, stream: Any) -> Iterator[tuple[int | None, int]]:
    """Time and duration, in ticks, of each packet that is shown. Raises VideoError if one is cut short."""
    for packet in picture_packets(container, stream):
        if packet.is_corrupt:  # the file holds a part of it
            raise VideoError(f"{path} is truncated: a packet ends before its length says", fix=REPLACE)
        if packet.size and not packet.is_discard:  # an edit list leaves some out
            yield packet.pts, packet.duration or 0
    if "mp4" in container.format.name.split(","):
        size = path.stat().st_size
        missing = sum(entry.pos + entry.size > size for entry in stream.index_entries)
        if missing:
            raise VideoError(f"{path} is truncated: {missing} of its frames lie past its end", fix=REPLACE)


def _each_is_a_frame(stream: Any, times: Sequence[int | None]) -> bool:
    """Whether the packets tell how many frames decode. Pictures that precede the first key frame do not."""
    context = stream.codec_context
    if context.name == "h264" and not (context.extradata or b"").startswith(b"\1"):
        return False  # without an index: it may begin anywhere
    known = [pts for pts in times if pts is not None]
    return context.name in _EACH_PACKET_A_FRAME and len(known) == len(times) > 0 and known[0] == min(known)
