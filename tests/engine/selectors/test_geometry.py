"""The selector geometry: planted faults lower the score, each by the statistic that is meant for it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.selectors import geometry
from engine.selectors._clips import prefix_like
from engine.selectors._encoders import EdgeDescriptor
from engine.selectors.geometry import Statistics, statistics
from engine.types import Clip, Frames, Scenario, SelectorSettings, Video
from engine.video.files import write_mp4

SIDE, FPS = 96, 8.0
NUM_PREFIX, NUM_TAKE = 24, 40


def rolling(num_frames: int, *, start: float = 0.0, speed: float = 1.0, grow: float = 0.0) -> Frames:
    """A striped box that slides to the right over a soft backdrop, by sub-pixel steps."""
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    backdrop = cv2.GaussianBlur(noise, (0, 0), 6) * 2 - 128
    box = np.zeros((20, 20, 3), np.float32)
    box[:, ::4] = box[:, 1::4] = (250, 60, 30)
    frames = []
    for t in range(num_frames):
        scale = 1.0 + grow * t
        warp = np.array([[scale, 0, 4 + start + speed * t], [0, scale, 40]], np.float32)
        layer = cv2.warpAffine(box, warp, (SIDE, SIDE))
        cover = cv2.warpAffine(np.ones((20, 20), np.float32), warp, (SIDE, SIDE))[..., None]
        frames.append(np.clip(backdrop * (1 - cover) + layer, 0, 255))
    return np.stack(frames).astype(np.uint8)


PREFIX = rolling(NUM_PREFIX)
GOOD = rolling(NUM_TAKE, start=NUM_PREFIX)
NOISE = np.random.default_rng(1).normal(0, 12, GOOD.shape)
FAULTS = {
    "still": np.repeat(PREFIX[-1:], NUM_TAKE, axis=0),
    "jump": rolling(NUM_TAKE, start=NUM_PREFIX + 15)[:, ::-1],
    "boiling": np.clip(GOOD + NOISE, 0, 255).astype(np.uint8),
    "growing": rolling(NUM_TAKE, start=NUM_PREFIX, speed=0.2, grow=0.05),
}


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    path = tmp_path_factory.mktemp("clips") / "prefix.mp4"
    write_mp4(path, PREFIX, FPS)
    prefix = Clip(path=path, fps=FPS, num_frames=NUM_PREFIX, width=SIDE, height=SIDE)
    return Scenario(id="1", text="a", prefix=prefix, category="c", output_name="1.mp4")


def scores(scenario: Scenario, *takes: Frames) -> list[float]:
    selector = geometry.build(SelectorSettings())
    return selector.score(scenario, [Video(frames=take, fps=FPS) for take in takes], [])


def found(take: Frames) -> Statistics:
    encoder = EdgeDescriptor()
    return statistics(encoder.features(PREFIX), encoder.features(take))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_steady_continuation_beats_a_planted_fault(scenario: Scenario, fault: str) -> None:
    good, bad = scores(scenario, GOOD, FAULTS[fault])
    assert good > bad


def test_each_fault_shows_in_its_statistic() -> None:
    good = found(GOOD)
    assert found(FAULTS["jump"]).jump > 1.5 * good.jump
    assert found(FAULTS["boiling"]).dimension > 1.3 * good.dimension
    assert found(FAULTS["boiling"]).novelty > good.novelty
    assert found(GOOD[np.arange(NUM_TAKE) // 8 * 8]).bend > 1.5 * good.bend  # frames are held
    assert found(FAULTS["still"]).dimension == pytest.approx(1.0)  # a still take counts as noise


def test_patches_that_only_change_places_deform_nothing() -> None:
    patches = np.random.default_rng(2).normal(size=(30, 8)).astype(np.float32)
    moved = np.stack([np.roll(patches, t, axis=0) for t in range(48)])
    melting = moved * np.linspace(1.0, 0.3, 48, dtype=np.float32)[:, None, None]
    rigid, soft = (statistics(moved[:24], take[24:]).deformation for take in (moved, melting))
    assert rigid < 0.02 and soft > 2 * rigid


def test_a_score_does_not_depend_on_the_other_takes(scenario: Scenario) -> None:
    together = scores(scenario, GOOD, *FAULTS.values())
    assert together[::-1] == scores(scenario, *[*FAULTS.values()][::-1], GOOD)
    assert scores(scenario, GOOD) == together[:1]


def test_sizes_and_lengths_may_differ(scenario: Scenario) -> None:
    small = np.stack([cv2.resize(frame, (40, 48)) for frame in GOOD])
    values = scores(scenario, GOOD, small, GOOD[:10], GOOD[:2], np.zeros_like(GOOD))
    assert values[3] == -math.inf  # too short for a curvature
    assert all(np.isfinite([*values[:3], values[4]]))


def test_a_prefix_too_short_for_a_curvature_gives_no_score(scenario: Scenario, tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    write_mp4(path, PREFIX[:2], FPS)
    short = replace(scenario, prefix=replace(scenario.prefix, path=path, num_frames=2))
    assert scores(short, GOOD) == [-math.inf]


def test_a_still_prefix_and_a_still_take_have_a_score(scenario: Scenario, tmp_path: Path) -> None:
    path = tmp_path / "still.mp4"
    write_mp4(path, np.full_like(PREFIX, 90), FPS)
    still = replace(scenario, prefix=replace(scenario.prefix, path=path))
    assert all(np.isfinite(scores(still, np.full_like(GOOD, 90), GOOD)))


def test_the_prefix_is_brought_to_the_rate_and_size_of_the_take(scenario: Scenario) -> None:
    take = Video(frames=np.zeros((20, 48, 40, 3), np.uint8), fps=4.0)
    assert prefix_like(scenario.prefix, take).shape == (12, 48, 40, 3)
