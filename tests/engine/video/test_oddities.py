"""Takes that show nothing, or nothing that moves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from engine.build.engine import encoder
from engine.commands._progress import odd_takes
from engine.types import Attempt, Frames, Outcome, Prompt, Video
from engine.video.files import read_note
from engine.video.oddities import ALL_BLACK, FROZEN, oddity_of

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (1, 48, 64, 3), np.uint8)


def noisy(frames: Frames) -> Frames:
    return np.clip(frames.astype(int) + RANDOM.integers(-3, 4, frames.shape), 0, 255).astype(np.uint8)


def with_square(frames: Frames, step_px: int) -> Frames:
    for index, frame in enumerate(frames):
        frame[20:24, 4 + step_px * index : 8 + step_px * index] = 250
    return frames


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        (np.zeros((10, 48, 64, 3), np.uint8), ALL_BLACK),
        (noisy(np.zeros((10, 48, 64, 3), np.uint8)), ALL_BLACK),
        (np.repeat(PICTURE, 10, axis=0), FROZEN),
        (noisy(np.repeat(PICTURE, 10, axis=0)), FROZEN),
        (np.full((10, 48, 64, 3), 90, np.uint8), FROZEN),
        (with_square(np.repeat(PICTURE, 10, axis=0), 4), None),
        (with_square(np.zeros((10, 48, 64, 3), np.uint8), 4), None),
        (with_square(np.zeros((10, 48, 64, 3), np.uint8), 0), FROZEN),
        (PICTURE, None),
        (np.stack([PICTURE[0] // 2 + 5 * i for i in range(10)]).astype(np.uint8), None),
    ],
    ids=[
        *("black", "black, noisy", "still", "still, noisy", "grey", "moves", "moves in the dark"),
        *("still in the dark", "one frame", "gets brighter"),
    ],
)
def test_what_is_odd_is_said(frames: Frames, found: str | None) -> None:
    assert oddity_of(frames) == found


def test_a_take_carries_what_is_odd_about_it(tmp_path: Path) -> None:
    prompt = Prompt(text="", negative="", seed=0, revision=0)
    takes = {"black": np.zeros((4, 48, 64, 3), np.uint8), "still": np.repeat(PICTURE, 4, axis=0)}
    takes["moves"] = with_square(np.zeros((4, 48, 64, 3), np.uint8), 4)
    attempts = []
    for index, (name, frames) in enumerate(takes.items()):
        scenario: Any = SimpleNamespace(id=name)
        path = encoder(tmp_path)(scenario, index, Video(frames=frames, fps=8.0))
        attempts.append(Attempt(index=index, prompt=prompt, video_path=path, critique=None))
    notes = [read_note(tmp_path / attempt.video_path) for attempt in attempts]
    assert notes == [ALL_BLACK, FROZEN, None]
    gone = Attempt(index=3, prompt=prompt, video_path=Path("gone.mp4"), critique=None)
    outcome = Outcome(scenario_id="0001_a", attempts=(*attempts, gone), chosen=1)
    assert odd_takes(tmp_path, [outcome]) == [
        "all black: 1 take: 0001_a take 0",
        "frozen: 1 take: 0001_a take 1 (chosen)",
    ]


def test_foreign_comments_are_no_notes(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        container.metadata["comment"] = "made by another tool"
        stream: Any = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 16
        container.mux([*stream.encode(av.VideoFrame(16, 16, "yuv420p")), *stream.encode(None)])
    assert read_note(tmp_path / "a.mp4") is None
