"""Clips of a wide shape with a tone: what a user's camera makes, and what PyAV can write."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from engine.types import Frames

SIZE = (320, 180)
RATE = 48000


def disc(width: int, height: int, radius: float, centre: float = 0.5) -> Frames:
    """A red disc on grey, round once the picture is shown at 16 by 9: uint8 RGB [H, W, 3]."""
    frame = np.full((height, width, 3), 128, np.uint8)
    axes = (round(radius * width / 16), round(radius * height / 9))
    middle = (round(centre * width), height // 2)
    return np.asarray(cv2.ellipse(frame, middle, axes, 0, 0, 360, (200, 30, 30), -1), np.uint8)


def write_with_tone(
    path: Path,
    *,
    seconds: float = 3.0,
    fps: float = 30.0,
    codec: str | None = "aac",
    pixel_shape: Fraction = Fraction(1),
    size: tuple[int, int] = SIZE,
) -> Path:
    """`codec` of the sound, None for no sound."""
    width, height = size
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = pixel_shape
        sound: Any = None if codec is None else container.add_stream(codec, rate=RATE, layout="mono")
        count = round(seconds * fps)
        for index in range(count):
            picture = disc(width, height, 2.0, 0.25 + 0.25 * index / count)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
        if sound is not None:
            wave = np.sin(np.arange(round(seconds * RATE)) * 2 * np.pi * 440 / RATE) * 0.5
            samples = (wave * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            resampler = av.AudioResampler(format=sound.format, layout="mono", rate=RATE)
            fifo = av.AudioFifo()
            for part in resampler.resample(frame):
                fifo.write(part)
            size_of_part = sound.codec_context.frame_size or 1024
            while part := fifo.read(size_of_part, partial=True):
                container.mux(sound.encode(part))
            container.mux(sound.encode(None))
    return path


def sound_of(path: Path) -> tuple[str, float, float]:
    """Codec, seconds and loudness (0 to 1) of the sound of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        parts = [frame.to_ndarray().astype(np.float64)[0] for frame in container.decode(stream)]
        samples = np.concatenate(parts)
        return stream.codec_context.name, len(samples) / stream.rate, float(np.abs(samples).max())
