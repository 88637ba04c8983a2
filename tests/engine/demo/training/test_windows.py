"""Motion windows: a square of known size and path, a still clip, and the scores that label takes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engine.demo.training.windows import (
    ACCEPT_SCORE,
    ANALYSIS_PX,
    GRID,
    WINDOW_FRAMES,
    Window,
    agreement_score,
    motion_windows,
    window_mismatch,
)
from engine.types import Frames

SIZE_PX = 128
CELL_PX = SIZE_PX // GRID
SCALE = SIZE_PX // ANALYSIS_PX  # pixels of the clip in one pixel of the analysis, along a side
WINDOWS = [Window(0, -1, -1), *(Window(a, x, y) for a in (1, 2, 3) for x, y in ((0, 0), (3, 9), (15, 15)))]


def clip_of(positions: list[tuple[int, int]], side_px: int, level: int = 255) -> Frames:
    """Frames [T, 128, 128, 3] of a square with its upper left corner at each position (x, y)."""
    frames = np.zeros((len(positions), SIZE_PX, SIZE_PX, 3), np.uint8)
    for frame, (x, y) in zip(frames, positions, strict=True):
        frame[y : y + side_px, x : x + side_px] = level
    return frames


def rolling(num_windows: int) -> Frames:
    return clip_of([(2 * i, 64) for i in range(1 + num_windows * WINDOW_FRAMES)], side_px=16)


def test_still_clip_has_no_motion() -> None:
    still = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8), 11, axis=0)
    windows = motion_windows(still)
    assert windows == [Window(0, -1, -1)] * 2
    assert windows[0].text(0.625) == "0.6 s: no motion"


def test_place_follows_the_square() -> None:
    windows = motion_windows(rolling(4))
    assert len(windows) == 4
    columns = [window.x for window in windows]
    # the centre of all change of a window lies between the square's places at its ends
    starts = [2 * WINDOW_FRAMES * i / CELL_PX for i in range(4)]
    assert all(a - 1 <= x <= a + 16 / CELL_PX + 2 for x, a in zip(columns, starts, strict=True)), columns
    assert columns == sorted(columns) and columns[-1] - columns[0] >= 2
    assert all(8 <= window.y <= 9 for window in windows)  # rows 64 to 80 of 128 are cells 8 and 9


def test_appearing_square_gives_its_cell() -> None:
    away, here = (0, 0), (5 * CELL_PX, 11 * CELL_PX)
    frames = clip_of([away] + [here] * WINDOW_FRAMES, CELL_PX)
    frames[0] = 0
    assert motion_windows(frames) == [Window(1, 5, 11)]


@pytest.mark.parametrize(("num_pixels_a_side", "amount"), [(1, 1), (2, 1), (3, 2), (5, 2), (6, 3), (10, 3)])
def test_amount_counts_changed_pixels(num_pixels_a_side: int, amount: int) -> None:
    """A square of n x n analysis pixels appears: n^2 changed pixels a frame."""
    frames = clip_of([(32, 32)] * (1 + WINDOW_FRAMES), SCALE * num_pixels_a_side)
    frames[0] = 0
    (window,) = motion_windows(frames)
    assert window.amount == amount


def test_faint_change_is_no_motion() -> None:
    frames = clip_of([(32, 32)] * (1 + WINDOW_FRAMES), 64, level=10)
    frames[0] = 0
    assert motion_windows(frames) == [Window(0, -1, -1)]


def test_text_tells_amount_and_cell() -> None:
    assert Window(2, 7, 12).text(1.25) == "1.2 s: clear motion at 7,12"


def test_equal_descriptions_score_100() -> None:
    windows = motion_windows(rolling(4))
    assert agreement_score(windows, windows) == 100.0


def test_frozen_take_of_a_moving_scene_is_not_acceptable() -> None:
    moving = rolling(4)
    frozen = np.repeat(moving[:1], len(moving), axis=0)
    assert agreement_score(motion_windows(frozen), motion_windows(moving)) < ACCEPT_SCORE / 2


def test_take_of_the_same_motion_is_acceptable() -> None:
    moving = rolling(4)
    assert agreement_score(motion_windows(np.roll(moving, 2, axis=2)), motion_windows(moving)) >= ACCEPT_SCORE


def test_mismatch_is_symmetric_and_a_share() -> None:
    for a, b in itertools.product(WINDOWS, WINDOWS):
        assert window_mismatch(a, b) == window_mismatch(b, a)
        assert 0.0 <= window_mismatch(a, b) <= 1.0
        assert (window_mismatch(a, b) == 0.0) == (a == b)


def test_descriptions_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        agreement_score(WINDOWS, WINDOWS[1:])
