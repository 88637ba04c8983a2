"""Which frames of a clip are the prefix, and when they are shown: decided here for whoever looks at one.

Generator, critic and selectors ask the same function, so what is judged is what was continued. Frames are
chosen by presentation time, never by index over an average rate. Invariant: the last frame of the clip is the
last of the prefix; the continuation starts there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from engine.errors import VideoError
from engine.types import PREFIX_SECONDS, Clip, Frames, VideoSpec
from engine.video.files import read_frames
from engine.video.times import presentation_times

TIE_S = Fraction(1, 500)
"""Of two frames as near to this much, the earlier one: Matroska rounds times to milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixFrames:
    """Frames of the prefix: their indices in the clip, ascending, and seconds after the first of the grid."""

    indices: tuple[int, ...]
    times_s: tuple[float, ...]


def frames_before_end(clip: Clip, *, fps: float, count: int) -> PrefixFrames:
    """For each of `count` times 1 / `fps` apart, the last of them that of the last frame: the nearest frame.

    Raises VideoError when the clip starts more than a frame of its own after the first of these times (clips
    cut at 2.97 s count as 3 s) or cannot be read.
    """
    return _before_end(clip, presentation_times(clip.path), fps=fps, count=count)


def prefix_frames(clip: Clip) -> PrefixFrames:
    """The prefix at the clip's own rate: a frame every 1 / `clip.fps` of its last 3 s, or of all there is."""
    times = presentation_times(clip.path)
    rate = Fraction(clip.fps).limit_denominator(1_000_000)
    available = int(times[-1] * rate + Fraction(1, 2)) + 1
    count = min(round(PREFIX_SECONDS * clip.fps), available)
    return _before_end(clip, times, fps=clip.fps, count=count)


def read_prefix(clip: Clip, spec: VideoSpec) -> Frames:
    """The last `spec.prefix_frames` frames of `clip` at `spec.fps` and `spec` size, uint8 RGB [T, H, W, 3].

    Raises VideoError when the clip is too short or cannot be read.
    """
    wanted = frames_before_end(clip, fps=spec.fps, count=spec.prefix_frames).indices
    return read_chosen(clip, wanted, width=spec.width, height=spec.height)


def read_chosen(
    clip: Clip, indices: Sequence[int], *, width: int | None = None, height: int | None = None
) -> Frames:
    """The frames of these ascending indices, of which some may stand more than once: uint8 [T, H, W, 3]."""
    unique, inverse = np.unique(indices, return_inverse=True)
    return read_frames(clip, width=width, height=height, indices=unique.tolist())[inverse]


def _before_end(clip: Clip, times: Sequence[Fraction], *, fps: float, count: int) -> PrefixFrames:
    assert fps > 0 and count >= 1, f"{count} frames at {fps} per second"
    step = 1 / Fraction(fps).limit_denominator(1_000_000)
    span = (count - 1) * step
    if span > times[-1] + Fraction(3, 2) / Fraction(clip.fps):
        needed = float(count * step)
        raise VideoError(
            f"{clip.path} is {clip.seconds:.2f} s long; the generator reads a prefix of {needed:.2f} s",
            fix=f"give a clip of at least {needed:.2f} s",
        )
    first = times[-1] - span
    indices = tuple(nearest_frame(times, first + k * step) for k in range(count))
    origin = max(first, times[0])
    return PrefixFrames(indices=indices, times_s=tuple(float(times[i] - origin) for i in indices))


def nearest_frame(times: Sequence[Fraction], wanted: Fraction) -> int:
    """Index of the frame whose time, of these ascending ones, is nearest; of two as near the earlier."""
    after = bisect_left(times, wanted)
    if after == 0:
        return 0
    if after == len(times):
        return len(times) - 1
    return after - 1 if wanted - times[after - 1] <= times[after] - wanted + TIE_S else after
