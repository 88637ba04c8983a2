"""Motion masks: the benchmark's definition on hand-made clips, and the mask files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.video.files import probe
from engine.video.motion_masks import masks_of, motion_masks, write_masks


def gray_clip(level: int, change: int, num_frames: int = 3) -> list[np.ndarray]:
    """Frame 0 even, then a 20 x 20 square brighter by `change`."""
    clip = [np.full((40, 40), level, np.uint8) for _ in range(num_frames)]
    for frame in clip[1:]:
        frame[10:30, 10:30] += np.uint8(change)
    return clip


def test_first_mask_is_empty_and_a_still_clip_has_none() -> None:
    masks = list(motion_masks(gray_clip(100, 0)))
    assert len(masks) == 3 and not np.any(masks)
    assert not next(motion_masks(gray_clip(100, 60))).any()


def test_a_change_counts_from_fifteen_grey_levels_on() -> None:
    """The background moves 30 % first: 14 levels show as 10 (not above the threshold), 16 as 11."""
    assert not list(motion_masks(gray_clip(100, 14)))[1].any()
    mask = list(motion_masks(gray_clip(100, 16)))[1]
    assert mask[20, 20] == 255 and mask[2, 2] == 0


def test_background_adapts_to_what_stays() -> None:
    """At frame n the difference is 60 * 0.7^n, rounded: 14 at frame 4, 10 (not above 10) at frame 5."""
    seen = [bool(mask.any()) for mask in motion_masks(gray_clip(100, 60, 8))]
    assert seen == [False, True, True, True, True, False, False, False]


def test_specks_are_opened_away() -> None:
    clip = gray_clip(100, 0)
    clip[1][20:22, 20:22] = 255
    assert not list(motion_masks(clip))[1].any()


def masks_by_whole_frames(clip: list[np.ndarray]) -> list[np.ndarray]:
    """The benchmark's steps one after another, each over all pixels and into memory of its own."""
    kernel, masks = np.ones((5, 5), np.uint8), [np.zeros_like(clip[0])]
    background = cv2.GaussianBlur(clip[0], (5, 5), 0).astype(np.float64)
    for gray in clip[1:]:
        blurred = cv2.GaussianBlur(gray, (5, 5), 0)
        cv2.accumulateWeighted(blurred, background, 0.3)
        mask = (cv2.absdiff(blurred, cv2.convertScaleAbs(background)) > 10).astype(np.uint8) * 255
        opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
        masks.append(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, kernel))
    return masks


@pytest.mark.parametrize("left, top, side", [(20, 20, 9), (0, 0, 7), (33, 53, 7), (0, 20, 60), (38, 3, 2)])
def test_cleaning_around_what_moves_cleans_the_whole_frame(left: int, top: int, side: int) -> None:
    """Also at edges and corners, where a filter has nothing to look at."""
    random = np.random.default_rng(left)
    clip = [np.full((60, 40), 90, np.uint8) for _ in range(12)]
    for frame in clip[1:]:
        part = frame[top : top + side, left : left + side]
        part += random.integers(0, 2, part.shape, np.uint8) * 90
    expected = masks_by_whole_frames(clip)
    assert np.array_equal(list(motion_masks(clip)), expected) and np.any(expected) == (side > 2)


def test_masks_of_rgb_frames() -> None:
    frames = np.stack([np.stack([gray] * 3, axis=-1) for gray in gray_clip(100, 60)])
    assert np.array_equal(masks_of(frames), np.stack(list(motion_masks(gray_clip(100, 60)))))


def test_mask_files_keep_every_pixel_and_crop_to_even(tmp_path: Path) -> None:
    masks = np.zeros((10, 41, 63), np.uint8)
    masks[3:, 5:25, 10:40] = 255
    write_masks(tmp_path / "masks.mp4", masks, 8.0)
    clip = probe(tmp_path / "masks.mp4")
    assert (clip.fps, clip.num_frames, clip.width, clip.height) == (8.0, 10, 62, 40)
    capture = cv2.VideoCapture(str(tmp_path / "masks.mp4"))
    read = np.stack([capture.read()[1][:, :, 0] for _ in range(10)])
    assert np.array_equal(read > 127, masks[:, :40, :62] > 127)
    assert [path.name for path in tmp_path.iterdir()] == ["masks.mp4"]
