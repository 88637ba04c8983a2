"""The selector static_camera: drift, flicker and a jump at the switch lower the score, motion does not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from engine.selectors.static_camera import background_of, background_shift, build, unsteadiness
from engine.types import Clip, Frames, Scenario, SelectorSettings, Video
from engine.video.files import write_mp4

SIDE, FPS = 96, 8.0


def backdrop() -> Frames:
    """Soft structure everywhere, so that any shift of it shows."""
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 4)
    return ((soft - soft.min()) / np.ptp(soft) * 160 + 40).astype(np.uint8)


def clip(num_frames: int, *, start: int = 0, drift_px: float = 0.0, flicker: float = 0.0) -> Frames:
    """A white square that rolls over the backdrop; the camera drifts to the right, the light flickers."""
    frames = []
    for t in range(num_frames):
        warp = np.array([[1, 0, drift_px * t], [0, 1, 0]], np.float32)
        frame = cv2.warpAffine(backdrop(), warp, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT).astype(
            np.float32
        )
        left = 8 + start + t
        frame[40:56, left : left + 16] = 250
        frames.append(np.clip(frame + flicker * (-1) ** t, 0, 255))
    return np.stack(frames).astype(np.uint8)


PREFIX = clip(24)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    path = tmp_path_factory.mktemp("clips") / "prefix.mp4"
    write_mp4(path, PREFIX, FPS)
    prefix = Clip(path=path, fps=FPS, num_frames=24, width=SIDE, height=SIDE)
    return Scenario(id="1", text="a", prefix=prefix, category="c", output_name="1.mp4")


def scores(scenario: Scenario, *takes: Frames) -> list[float]:
    selector = build(SelectorSettings())
    return selector.score(scenario, [Video(frames=take, fps=FPS) for take in takes], [])


def test_steady_takes_win_over_drifting_and_flickering_ones(scenario: Scenario) -> None:
    steady = clip(40, start=24)
    found = scores(
        scenario, steady, clip(40, start=24, drift_px=0.05), clip(40, start=24, drift_px=0.2),
        clip(40, start=24, flicker=4.0), np.roll(steady, 3, axis=2),
    )  # fmt: skip
    assert (
        found[0] > max(found[1:]) and found[0] > -2.0
    )  # grey levels, of which the prefix's codec makes most
    assert found[1] > found[2]  # more drift is worse


def test_what_moves_is_not_held_against_a_take(scenario: Scenario) -> None:
    moving, still = scores(scenario, clip(40, start=24), np.repeat(PREFIX[-1:], 40, axis=0))
    assert moving == pytest.approx(still, abs=0.5)


def test_parts_are_told_apart() -> None:
    drifting = unsteadiness(PREFIX, clip(40, start=24, drift_px=0.2))
    flickering = unsteadiness(PREFIX, clip(40, start=24, flicker=4.0))
    jumping = unsteadiness(PREFIX, clip(40, start=24) // 2)
    assert drifting.drift > 5 * drifting.flicker
    assert flickering.flicker > 5 * flickering.drift
    assert flickering.flicker == pytest.approx(8.0, rel=0.2)  # grey levels from frame to frame
    assert jumping.jump > 20 * max(jumping.flicker, 0.1)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.2), (2.5, 1.0), (-6.0, 4.0)])
def test_shifts_are_found_to_a_tenth_of_a_pixel_whatever_the_light(shift: tuple[float, float]) -> None:
    still = cv2.cvtColor(backdrop(), cv2.COLOR_RGB2GRAY).astype(np.float32)
    warp = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    moved = cv2.warpAffine(still, warp, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    found = background_shift(still, np.asarray(moved * 0.9 + 5, np.float32), np.ones(still.shape, bool))
    assert found == pytest.approx(shift, abs=0.1)


def test_a_background_without_edges_has_no_drift() -> None:
    grey = np.full((64, 64), 90, np.float32)
    assert background_shift(grey, grey + 20, np.ones((64, 64), bool)) == pytest.approx((0.0, 0.0), abs=1e-3)


def test_a_take_that_moves_everywhere_still_has_a_background() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, SIDE, SIDE, 3)).astype(np.uint8)
    assert background_of(PREFIX, noise, (SIDE, SIDE)).mean() > 0.5  # what the prefix leaves still
    assert background_of(noise, noise, (SIDE, SIDE)).all()
    assert unsteadiness(PREFIX, noise).total > 20 * unsteadiness(PREFIX, clip(40, start=24)).total


def test_sizes_and_lengths_may_differ(scenario: Scenario) -> None:
    steady = clip(40, start=24)
    small = np.stack([cv2.resize(frame, (48, 40)) for frame in steady])
    found = scores(scenario, steady, small, steady[:1], np.full((40, SIDE, SIDE, 3), 90, np.uint8))
    assert all(np.isfinite(found)) and max(found) == pytest.approx(found[0], abs=0.01)
