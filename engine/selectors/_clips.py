"""What the selectors share of reading: the prefix beside a take, and frames on a small grid.

Opens the scenario's prefix and nothing else. Invariant: a result depends on pixels and scenario alone.
Legend: T pixel frames . H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.types import PREFIX_SECONDS, Clip, Frames, Video, VideoSpec
from engine.video.prefix import read_prefix

GREY_LEVELS = 255.0
T = TypeVar("T")


def prefix_like(prefix: Clip, take: Video) -> Frames:
    """The last 3 s before the switch, or all there is, at the take's rate and size: uint8 [T, H, W, 3].

    Raises VideoError when the clip cannot be read.
    """
    height, width = take.frames.shape[1:3]
    seconds = min(PREFIX_SECONDS, prefix.seconds)
    num_frames = max(1, int(seconds * take.fps + 1e-6))
    spec = VideoSpec(width=width, height=height, fps=take.fps, prefix_frames=num_frames, num_frames=1)
    return read_prefix(prefix, spec)


def beside_prefix(
    prefix: Clip, takes: Iterable[Video], make: Callable[[Frames], T]
) -> Iterator[tuple[T, Video]]:
    """Each take after what `make` makes of `prefix_like`: once for all takes of one rate and size."""
    made: dict[tuple[float, int, int], T] = {}
    for take in takes:
        look = (take.fps, take.frames.shape[1], take.frames.shape[2])
        if look not in made:
            made[look] = make(prefix_like(prefix, take))
        yield made[look], take


def small_size(width: int, height: int, longest_px: int) -> tuple[int, int]:
    """(w, h) of the same shape whose longer side is at most `longest_px`; never larger, at least 1 x 1."""
    scale = min(1.0, longest_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def small_greys(frames: Frames, size: tuple[int, int]) -> NDArray[np.float32]:
    """Grey levels 0 to 255, float32 [T, h, w], averaged over the area."""
    greys = [cv2.cvtColor(shrunk(frame, size), cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack(greys).astype(np.float32)


def shrunk(frame: Frames, size: tuple[int, int]) -> Frames:
    """One frame or mask at (w, h), averaged over the area where it shrinks."""
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
