"""Whether one file of a benchmark tree is what its folder says: rate, length, size and, decoded, contents.

Knows the layout, not the tree: `bench.dataset.check` walks that. It opens reference clips, so the loop never
imports it. Invariant: nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from engine.errors import VideoError
from engine.types import ANSWER_SECONDS, PREFIX_SECONDS
from engine.video.files import Header, probe, read_header, refuse_mirrored, stream_frames
from engine.words import counted

_FPS_TOLERANCE = 0.01
_MAX_GREY_SHARE = 0.05  # of a mask's pixels that are neither dark nor bright; coding alone gives far less
_TAKES = ("take-1", "take-2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The clips of one purpose, in a folder for each frame rate."""

    folder: str  # below the tree
    name: str  # in file names
    seconds: float
    needed_for: str  # "" if nothing here reads it
    takes: tuple[str, ...] = _TAKES  # that have to be there
    may_lack_frames: int = 0


TESTING: Final = Kind(
    folder="split-videos/testing", name="testing-videos", seconds=ANSWER_SECONDS, needed_for="scoring"
)
MASKS: Final = Kind(
    folder="video-masks/real", name="video-masks", seconds=ANSWER_SECONDS, needed_for="scoring"
)
CONDITIONING: Final = Kind(
    folder="split-videos/conditioning",
    name="conditioning-videos",
    seconds=PREFIX_SECONDS,
    needed_for="generating",
    takes=_TAKES[:1],
    may_lack_frames=1,
)
KINDS: Final = (
    CONDITIONING,
    TESTING,
    MASKS,
    *(
        Kind(
            folder=f"full-videos/{take}",
            name="full-videos",
            seconds=PREFIX_SECONDS + ANSWER_SECONDS,
            needed_for="",
            takes=(take,),
            may_lack_frames=1,
        )
        for take in _TAKES
    ),
)


def clip_faults(path: Path, kind: Kind, rate: int, *, deep: bool, clip: Path | None = None) -> list[str]:
    """What is wrong with `path`; `clip` is the testing clip of which it is the mask."""
    try:
        header = read_header(path)
        faults = _header_faults(header, kind, rate)
        if clip is not None and clip.is_file():
            faults += _mask_faults(header, read_header(clip))
        if deep:
            faults += _content_faults(path, is_mask=kind is MASKS)
    except VideoError as error:
        return [error.problem.replace(f"{path} ", "").replace(str(path), path.name)]
    return faults


def picture_faults(path: Path, clip: Path | None) -> list[str]:
    """Of a switch frame against a clip of its view."""
    try:
        header = read_header(path)
        if clip is None:
            return []
        size = read_header(clip)
    except VideoError as error:
        return [error.problem.replace(f"{path} ", "")]
    if (header.width, header.height) != (size.width, size.height):
        return [f"{header.width}x{header.height}, its clip {size.width}x{size.height}"]
    return []


def _header_faults(header: Header, kind: Kind, rate: int) -> list[str]:
    faults = []
    fps = _rate(header)
    if abs(fps - rate) > _FPS_TOLERANCE:
        faults.append(f"{fps:g} fps in the folder of {rate}")
    num_frames = header.num_frames or round(header.container_s * fps)
    wanted = round(kind.seconds * rate)
    if not wanted - kind.may_lack_frames <= num_frames <= wanted + 1:
        faults.append(f"{counted(num_frames, 'frame')}, not {wanted} ({kind.seconds:g} s)")
    return faults


def _rate(header: Header) -> float:
    """The average that a header states is off where the last frame lasts longer or shorter than others."""
    return header.fps if header.fps == header.base_fps else probe(header.path).fps


def _mask_faults(mask: Header, clip: Header) -> list[str]:
    faults = []
    even = (clip.width // 2 * 2, clip.height // 2 * 2)
    if (mask.width, mask.height) not in (even, (clip.width, clip.height)):
        faults.append(f"{mask.width}x{mask.height}, its clip {clip.width}x{clip.height}")
    if mask.num_frames != clip.num_frames:
        faults.append(f"{counted(mask.num_frames, 'frame')}, its clip {clip.num_frames}")
    return faults


def _content_faults(path: Path, *, is_mask: bool) -> list[str]:
    """Decode all of it. Raises VideoError for a damaged file, and for one that the scorer reads wrongly."""
    clip = probe(path)
    refuse_mirrored(path)
    greys = [
        float(np.mean((frame > 63) & (frame < 192)))
        for frame in stream_frames(clip, indices=range(clip.num_frames) if is_mask else ())
    ]
    share = sum(greys) / len(greys) if greys else 0.0
    return [f"no mask: {share:.0%} of its pixels are grey"] if share > _MAX_GREY_SHARE else []
