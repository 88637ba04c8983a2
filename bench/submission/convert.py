"""One clip of any tool to one valid submission: where the answer starts, which frames, how they are written.

Frames are taken or left, never blended: a blend shows a moving thing twice, each half as strong, which the
benchmark's motion mask sees as other motion, and it is a picture the model never made. Invariant: the input
is only read, and a clip that is valid already keeps its bytes or at least its encoded frames.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.submission.rules import FPS_TOLERANCE, Size, encoding_problems, parse_size, timing_problems
from engine.errors import ConfigError, VideoError
from engine.types import ANSWER_SECONDS, PREFIX_SECONDS, Clip, Frames
from engine.video.files import (
    Header,
    encode_mp4,
    probe,
    read_header,
    refuse_damaged,
    remux_mp4,
    stream_frames,
)
from engine.video.times import Timeline, read_timeline
from engine.words import counted
from kernels.files import whole_file

PREFIX_MODES = ("auto", "keep", "cut")
MAX_FPS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides an output's pixels besides its input."""

    fps: int
    prefix: str = "auto"
    skip_s: float | None = None  # wins over `prefix`
    size: Size | None = None  # None: as it is, less an odd row or column


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Seconds to leave out at the start, and why, in words."""

    skip_s: float
    reason: str
    is_seen: bool = False  # in the pixels


def make_settings(*, fps: int, prefix: str, skip_s: float | None, size: str | None) -> Settings:
    """Raises ConfigError for a value out of range, and for two that contradict each other."""
    if not 1 <= fps <= MAX_FPS:
        raise ConfigError(f"--fps is {fps}", fix=f"give a whole number from 1 to {MAX_FPS}")
    if prefix not in PREFIX_MODES:
        raise ConfigError(f"--prefix is {prefix!r}", fix=f"use one of: {', '.join(PREFIX_MODES)}")
    if skip_s is not None and (prefix != "auto" or not 0 <= skip_s < 3600):
        raise ConfigError(
            f"--skip-seconds is {skip_s:g} with --prefix {prefix}",
            fix="give --skip-seconds from 0 up, or --prefix, not both",
        )
    parsed = None if size is None else parse_size(size)
    if size is not None and (parsed is None or parsed[0] % 2 or parsed[1] % 2):
        raise ConfigError(f"--size is {size!r}", fix="give WIDTHxHEIGHT of even numbers, such as 1280x720")
    return Settings(fps=fps, prefix=prefix, skip_s=skip_s, size=parsed)


def told_cut(settings: Settings) -> Cut | None:
    """What the options say; None if it is to be found (`bench.submission.cuts`)."""
    if settings.skip_s is not None:
        return Cut(skip_s=settings.skip_s, reason=f"first {settings.skip_s:g} s cut, as told")
    if settings.prefix == "cut":
        return Cut(skip_s=PREFIX_SECONDS, reason=f"first {PREFIX_SECONDS:g} s cut, as told")
    if settings.prefix == "keep":
        return Cut(skip_s=0.0, reason="taken from the first frame on, as told")
    return None


def choose_frames(timeline: Timeline, *, skip_s: float, fps: int) -> list[int]:
    """Of each output time the frame nearest to it, the earlier one of two. Raises VideoError if too short."""
    left_s, frame_s = timeline.seconds - skip_s, timeline.seconds / len(timeline.times_s)
    if left_s < ANSWER_SECONDS - frame_s / 2:
        after = f", {left_s:.3f} s after the cut" if skip_s else ""
        raise VideoError(
            f"too short: {timeline.seconds:.3f} s ({counted(len(timeline.times_s), 'frame')}){after}; "
            f"{ANSWER_SECONDS:g} s are needed",
            fix="generate longer clips; a short one is not padded",
        )
    times = np.array(timeline.times_s)
    wanted = skip_s + np.arange(round(ANSWER_SECONDS * fps)) / fps
    after_index = np.searchsorted(times, wanted).clip(1, max(1, len(times) - 1))
    before_index = after_index - 1
    after_index = np.minimum(after_index, len(times) - 1)
    earlier = wanted - times[before_index] <= times[after_index] - wanted + 1e-6
    return [int(index) for index in np.where(earlier, before_index, after_index)]


def make_clip(source: Path, target: Path, settings: Settings, cut: Cut) -> tuple[str, list[str]]:
    """Write `target`; what was done and why. Raises VideoError."""
    timeline, header = read_timeline(source), read_header(source)
    clip = probe(source)
    same_picture = settings.size in (None, (header.width, header.height)) and timeline.upright
    # A container may count its sound in its length and not say how many frames it holds.
    header = replace(header, num_frames=header.num_frames or clip.num_frames)
    pictures = replace(header, num_frames=clip.num_frames, container_s=timeline.seconds, fps=clip.fps)
    if same_picture and cut.skip_s == 0 and not timing_problems(pictures, settings.fps):
        refuse_damaged(source)
        lossless = _keep_encoding(header, target, settings.fps)
        if lossless is not None:
            return lossless
    indices = choose_frames(timeline, skip_s=cut.skip_s, fps=settings.fps)
    size, notes = _output_size(clip, settings)
    notes = [cut.reason, *_timing_notes(timeline, clip, indices, cut.skip_s, settings.fps), *notes]
    _encode(clip, target, indices, size, resize=settings.size is not None, fps=settings.fps)
    return "re-encoded", notes


def _keep_encoding(header: Header, target: Path, fps: int) -> tuple[str, list[str]] | None:
    """Copy the file or its packets; None where only encoding again makes it valid."""
    problems = encoding_problems(header) + timing_problems(header, fps)
    if not problems:
        _copy(header.path, target)
        return "copied", ["valid as it is, same bytes"]
    if (header.codec, header.pixel_format) == ("h264", "yuv420p") and not (header.width | header.height) % 2:
        remux_mp4(header.path, target, fps)
        copy = read_header(target)
        if not timing_problems(copy, fps) + encoding_problems(copy):
            return "remuxed", [f"the same encoded frames in a new mp4, because: {'; '.join(problems)}"]
        target.unlink()
    return None


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as part:
        shutil.copyfile(source, part)


def _encode(clip: Clip, target: Path, indices: Sequence[int], size: Size, *, resize: bool, fps: int) -> None:
    width, height = size if resize else (clip.width, clip.height)
    shown = Counter(indices)
    kept = sorted(shown)

    def frames() -> Iterator[Frames]:
        stream = stream_frames(clip, width=width, height=height, indices=kept)
        for index, frame in zip(kept, stream, strict=True):
            for _ in range(shown[index]):
                yield frame[: size[1], : size[0]]

    encode_mp4(target, frames(), fps)


def _output_size(clip: Clip, settings: Settings) -> tuple[Size, list[str]]:
    """The size to write, and a note when it is another."""
    if settings.size is None:
        even = (clip.width // 2 * 2, clip.height // 2 * 2)
        same = even == (clip.width, clip.height)
        cropped = f"odd size: {clip.width}x{clip.height} cropped to {even[0]}x{even[1]}"
        return even, [] if same else [cropped]
    width, height = settings.size
    if (width, height) == (clip.width, clip.height):
        return settings.size, []
    stretched = abs(width * clip.height - height * clip.width) > max(clip.width, clip.height)
    note = f"{clip.width}x{clip.height} resized to {width}x{height}"
    return settings.size, [note + (", which stretches it" if stretched else "")]


def _timing_notes(
    timeline: Timeline, clip: Clip, indices: Sequence[int], skip_s: float, fps: int
) -> list[str]:
    notes = []
    num_frames = len(timeline.times_s)
    if abs(clip.fps - fps) > FPS_TOLERANCE:
        repeated = len(indices) - len(set(indices))
        twice = f", {counted(repeated, 'frame')} repeated" if repeated else ""
        notes.append(f"{clip.fps:g} to {fps} fps by the nearest frame{twice}")
    gaps = np.diff(timeline.times_s)
    if len(gaps) and gaps.max() > 1.5 * np.median(gaps):
        notes.append("uneven frame times, each output frame by time")
    over = num_frames - 1 - indices[-1]
    if over > 0 and abs(clip.fps - fps) <= FPS_TOLERANCE:
        notes.append(f"{counted(over, 'frame')} after the first {ANSWER_SECONDS:g} s left out")
        if over == 1 and skip_s == 0:
            frame_s = f"{1 / clip.fps:.4f}"
            notes.append(f"if frame 0 is the input picture, --skip-seconds {frame_s} leaves that out instead")
    return notes
