"""What a submitted clip must be, told from its header.

The first set is the benchmark's own; the second is what every build of its evaluator reads, which is what
`retake prepare` writes. Decodes nothing and changes nothing.
"""

from __future__ import annotations

import re

from engine.types import ANSWER_SECONDS
from engine.video.files import Header
from engine.words import counted

DURATION_TOLERANCE_S = 0.001
FPS_TOLERANCE = 0.01
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")

Size = tuple[int, int]
"""Width and height in pixels."""


def parse_size(text: str) -> Size | None:
    """ "1280x720" as (1280, 720); None for any other text."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    return (int(match[1]), int(match[2])) if match else None


def timing_problems(header: Header, fps: float) -> list[str]:
    """Against the benchmark's rules: exactly 5.000 s at one frame rate, all its frames there."""
    found = []
    if abs(header.container_s - ANSWER_SECONDS) > DURATION_TOLERANCE_S:
        found.append(f"{header.container_s:.4f} s long, not {ANSWER_SECONDS:.3f} ± {DURATION_TOLERANCE_S} s")
    rates = {f"{rate:g}" for rate in (header.base_fps, header.fps) if abs(rate - fps) > FPS_TOLERANCE}
    if rates:
        found.append(f"{' or '.join(sorted(rates))} fps, not {fps:g}")
    elif header.num_frames != round(ANSWER_SECONDS * fps):
        found.append(f"{counted(header.num_frames, 'frame')}, not {round(ANSWER_SECONDS * fps)}")
    return found


def encoding_problems(header: Header) -> list[str]:
    """Against what `retake prepare` writes: an mp4 of one H.264 yuv420p stream of even size."""
    found = []
    if "mp4" not in header.container.split(",") or header.path.suffix != ".mp4":
        found.append(f"{header.path.suffix or 'no suffix'}, not an .mp4 file")
    if (header.codec, header.pixel_format) != ("h264", "yuv420p"):
        found.append(f"{header.codec} {header.pixel_format}, not h264 yuv420p")
    if header.num_streams != 1:
        found.append(f"{counted(header.num_streams, 'stream')}, not the video alone")
    if header.width % 2 or header.height % 2:
        found.append(f"{header.width}x{header.height}, not an even size")
    return found
