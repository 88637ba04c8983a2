"""Made datasets and submissions on which our scorer and the official evaluator must agree.

Moving shapes over a textured table, drawn at any size and frame rate; equal specifications give equal frames.
Writes what both tools read: testing clips of two takes, masks where they ship, descriptions.csv, submissions.
Knows neither tool. Frames are uint8 BGR [H, W, 3].
"""

from __future__ import annotations

import collections
import csv
import itertools
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from engine.datasets.physics_iq import COLUMNS, TREES, VIEWS, Description
from engine.types import ANSWER_SECONDS, Frames
from engine.video.motion_masks import motion_masks, write_masks

CATEGORIES = ("Solid Mechanics", "Fluid Dynamics", "Optics", "Thermodynamics", "Magnetism")
GENERATED = (0, -1)  # the "takes" of the first and the second submission
_SPEEDS = {1: 1.0, 2: 1.05, 0: 0.85, -1: 1.2}
_SETTLED_S = 3.5  # nothing moves after: frames in which both masks are empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One dataset with its submissions. Sizes are (width, height)."""

    name: str
    fps: int
    real_px: tuple[int, int]
    generated_px: tuple[int, int]
    num_scenes: int = 2
    num_submissions: int = 1
    real_seconds: float = ANSWER_SECONDS
    masks_ship: bool = True
    still_views: bool = (
        False  # left: nothing moves, center: only the submission, right: all but the submission
    )

    def rows(self) -> list[Description]:
        """All of take 1, then all of take 2; views left, center, right within a scene."""
        pairs = [(scene, view) for scene in range(self.num_scenes) for view in VIEWS]
        rows: list[Description] = []
        for take in ("take-1", "take-2"):
            for position, (scene, view) in enumerate(pairs, start=1):
                slug = f"trimmed-shapes-{scene:02d}"
                row = Description(
                    number=position + (len(pairs) if take == "take-2" else 0),
                    view=view,
                    take=take,
                    scene=slug,
                    text="Shapes slide over a table. Static shot with no camera movement.",
                    category=CATEGORIES[scene % len(CATEGORIES)],
                    output_name=f"{position:04d}_{view}_{slug}.mp4",
                )
                rows.append(row)
        return rows


EXACTNESS = (
    Made(name="8fps-equal-size", fps=8, real_px=(256, 192), generated_px=(256, 192)),
    Made(name="16fps-smaller", fps=16, real_px=(256, 192), generated_px=(104, 78)),
    Made(
        name="24fps-larger-no-masks",
        fps=24,
        real_px=(200, 112),
        generated_px=(360, 202),
        masks_ship=False,
        num_submissions=2,
    ),
    Made(name="30fps-other-aspect", fps=30, real_px=(256, 144), generated_px=(120, 120)),
    Made(  # a mask pixel covers half a reduced one: codec ringing decides
        name="30fps-half-cover-ties",
        fps=30,
        real_px=(384, 216),
        generated_px=(192, 108),
        num_submissions=2,
    ),
    Made(name="24fps-odd-sizes", fps=24, real_px=(203, 115), generated_px=(133, 77)),
    Made(name="16fps-odd-no-masks", fps=16, real_px=(131, 99), generated_px=(201, 151), masks_ship=False),
    Made(name="8fps-still", fps=8, real_px=(160, 120), generated_px=(160, 120), still_views=True),
    Made(name="24fps-longer", fps=24, real_px=(160, 120), generated_px=(128, 96), real_seconds=6.5),
    Made(
        name="30fps-longer-no-masks",
        fps=30,
        real_px=(160, 120),
        generated_px=(128, 96),
        real_seconds=8.0,
        masks_ship=False,
    ),
)
COMPLETE = Made(name="30fps-198-clips", fps=30, real_px=(96, 64), generated_px=(96, 64), num_scenes=66)
"""As many clips as the official command line insists on."""
FULL_SIZE = Made(name="30fps-4k", fps=30, real_px=(3840, 2160), generated_px=(1280, 720), num_scenes=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    made: Made
    row: Description
    take: int
    out: Path


def make(made: Made, out: Path, *, workers: int = 1) -> list[Path]:
    """Write `made` under `out`, which then holds the benchmark tree; the folders of the submissions."""
    tree = out / TREES[0]
    tree.mkdir(parents=True)
    rows = made.rows()
    with (tree / "descriptions.csv").open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            name = f"{row.number:04d}_{row.view}_{row.take}_{row.scene}.mp4"
            writer.writerow((name, row.text, row.category, row.output_name))
    submissions = [out / f"submission-{number}" for number in range(1, made.num_submissions + 1)]
    jobs = [_Job(made=made, row=row, take=int(row.take[-1]), out=tree) for row in rows]
    jobs += [
        _Job(made=made, row=row, take=take, out=folder)
        for take, folder in zip(GENERATED, submissions, strict=False)
        for row in rows
        if row.take == "take-1"
    ]
    if workers <= 1:
        for job in jobs:
            _write(job)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool:
            list(pool.map(_write, jobs))
    return submissions


def _write(job: _Job) -> None:
    made, row = job.made, job.row
    if job.take in GENERATED:
        written = _writing(job.out / row.output_name, draw(made, row, job.take), made.fps)
        collections.deque(written, maxlen=0)
        return
    rate = f"{made.fps}FPS"
    clip = job.out / "split-videos" / "testing" / rate / row.file_name("testing-videos", made.fps)
    written = _writing(clip, draw(made, row, job.take), made.fps)
    if made.masks_ship:
        masks = job.out / "video-masks" / "real" / rate / row.file_name("video-masks", made.fps)
        grays = (np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8) for frame in written)
        write_masks(masks, motion_masks(grays), made.fps)
    collections.deque(written, maxlen=0)


def draw(made: Made, row: Description, take: int) -> Iterator[Frames]:
    """The frames of one clip; `take` 1 or 2 at the real size, those in GENERATED at the submission's."""
    generated = take in GENERATED
    width, height = made.generated_px if generated else made.real_px
    seconds = ANSWER_SECONDS if generated else made.real_seconds
    scene, view = divmod((row.number - 1) % (made.num_scenes * len(VIEWS)), len(VIEWS))
    random = np.random.default_rng([scene, view])
    table = _table(random, width, height)
    starts = random.uniform(0.1, 0.9, (3, 2))  # nosec B311 # seeded, for test clips
    velocities = random.uniform(-0.35, 0.35, (3, 2))  # nosec B311 # the same
    colors = random.integers(0, 2, (3, 3)) * 190 + 30
    moves = not made.still_views or ((view == 1) == generated and view != 0)
    noise = np.random.default_rng([scene, view, take + 1])
    for index in range(round(seconds * made.fps)):
        time_s = min(index / made.fps, _SETTLED_S) * _SPEEDS[take] if moves else 0.0
        frame = table.copy()
        for shape, (start, velocity) in enumerate(zip(starts, velocities, strict=True)):
            x, y = (_bounce(float(value)) for value in start + velocity * time_s)
            _paint(frame, shape, (round(x * width), round(y * height)), colors[shape])
        cv2.add(frame, int(noise.integers(0, 3)), dst=frame)  # flicker, far below the motion threshold
        yield frame


def _table(random: np.random.Generator, width: int, height: int) -> Frames:
    """A coarse pattern and fine grain, alike at every size."""
    coarse = random.integers(70, 180, (9, 16, 3)).astype(np.uint8)
    table: Any = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain: Any = cv2.resize(random.integers(0, 12, (135, 240)).astype(np.uint8), (width, height))
    return np.asarray(cv2.add(table, cv2.merge([grain] * 3)), np.uint8)


def _paint(frame: Frames, shape: int, center: tuple[int, int], color: Any) -> None:
    radius = max(4, min(frame.shape[:2]) // 8)
    shade = tuple(int(channel) for channel in color)
    if shape == 0:
        cv2.circle(frame, center, radius, shade, -1)
        return
    wide = radius * (1 + shape % 2)
    corners = [(center[0] - wide, center[1] - radius), (center[0] + wide, center[1] + radius)]
    cv2.rectangle(frame, corners[0], corners[1], shade, -1)


def _bounce(position: float) -> float:
    """Reflected into [0, 1]."""
    return 1.0 - abs(math.fmod(abs(position), 2.0) - 1.0)


def _writing(path: Path, frames: Iterator[Frames], fps: int) -> Iterator[Frames]:
    """The same frames, each being written as it passes. H.264; 4:4:4 where a side is odd: 4:2:0 cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = next(frames)
    height, width = first.shape[:2]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        stream.options = {"crf": "18", "preset": "ultrafast" if width > 1920 else "medium"}
        for frame in itertools.chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
            yield frame
        container.mux(stream.encode(None))
