"""A dataset of one clip of the user's own, for plans that read nothing but its size; no test of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.video.files import write_mp4


def write_clip(place: Path) -> Path:
    """Three seconds at 24 frames a second, with their sentence; returns `place`."""
    write_mp4(place / "ball.mp4", np.zeros((72, 32, 32, 3), np.uint8), 24.0)
    (place / "ball.txt").write_text("a ball rolls")
    return place
