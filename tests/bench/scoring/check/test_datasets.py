"""Made datasets: what they promise to cover is there, and equal specifications give equal frames."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.scoring.check.datasets import EXACTNESS, GENERATED, Made, draw, make
from bench.scoring.clip_reader import read_by_opencv
from engine.datasets.physics_iq import read_descriptions
from engine.video.files import probe
from engine.video.motion_masks import masks_of, motion_masks, write_masks

SMALL = Made(name="small", fps=8, real_px=(96, 64), generated_px=(45, 33), num_scenes=1, num_submissions=2)


def masks(made: Made, view: int, take: int) -> np.ndarray:
    return masks_of(np.stack(list(draw(made, made.rows()[view], take))))


def test_the_layout_is_read_back(tmp_path: Path) -> None:
    made = replace(SMALL, real_seconds=6.0)
    submissions = make(made, tmp_path)
    assert read_descriptions(tmp_path) == tuple(made.rows())
    tree = tmp_path / "physics-IQ-benchmark"
    clips = sorted((tree / "split-videos" / "testing" / "8FPS").iterdir())
    shipped = sorted((tree / "video-masks" / "real" / "8FPS").iterdir())
    assert [len(clips), len(shipped), len(submissions)] == [6, 6, 2]
    for path in (*clips, *shipped):
        header = probe(path)
        assert (header.num_frames, header.fps, header.width, header.height) == (48, 8.0, 96, 64)
    for folder in submissions:
        headers = [probe(path) for path in sorted(folder.iterdir())]
        assert {(header.num_frames, header.width, header.height) for header in headers} == {(40, 45, 33)}
    assert (submissions[0] / "0001_perspective-left_trimmed-shapes-00.mp4").read_bytes() != (
        submissions[1] / "0001_perspective-left_trimmed-shapes-00.mp4"
    ).read_bytes()


def test_masks_do_not_ship_where_they_should_not(tmp_path: Path) -> None:
    make(replace(SMALL, masks_ship=False, num_submissions=1), tmp_path)
    assert not (tmp_path / "physics-IQ-benchmark" / "video-masks").exists()


def test_equal_specifications_give_equal_frames() -> None:
    row = SMALL.rows()[1]
    first, again = (list(draw(SMALL, row, 1)) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, list(draw(SMALL, row, 2)))


@pytest.mark.parametrize("made", EXACTNESS, ids=lambda made: made.name)
def test_every_clip_moves_and_settles(made: Made) -> None:
    if made.still_views:
        moving = [[masks(made, view, take).any() for take in (1, 2, *GENERATED[:1])] for view in range(3)]
        assert moving == [[False, False, False], [False, False, True], [True, True, False]]
        return
    found = masks(made, 0, 1)
    assert found.any() and not found[round(4.5 * made.fps) : round(5 * made.fps)].any()


def test_exactness_covers_what_it_claims() -> None:
    assert {made.fps for made in EXACTNESS} == {8, 16, 24, 30}
    widths = {made.generated_px[0] - made.real_px[0] for made in EXACTNESS}
    assert min(widths) < 0 < max(widths) and 0 in widths
    aspects = [
        made.generated_px[0] / made.generated_px[1] - made.real_px[0] / made.real_px[1] for made in EXACTNESS
    ]
    assert max(map(abs, aspects)) > 0.5
    assert any(made.real_px[0] % 2 and made.real_px[1] % 2 for made in EXACTNESS)
    assert any(made.generated_px[0] % 2 and made.generated_px[1] % 2 for made in EXACTNESS)
    assert any(made.still_views for made in EXACTNESS)
    assert {made.masks_ship for made in EXACTNESS if made.real_seconds > 5} == {True, False}


def test_half_cover_lets_the_codec_decide(tmp_path: Path) -> None:
    """Masks that skip the mp4v file reduce to other pixels, so the dataset catches a scorer that skips it."""
    made = next(made for made in EXACTNESS if made.name == "30fps-half-cover-ties")
    frames = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in draw(made, made.rows()[0], GENERATED[0])]
    direct = list(motion_masks(frames))
    write_masks(tmp_path / "masks.mp4", direct, made.fps)
    size = (made.real_px[0] // 4, made.real_px[1] // 4)
    stored = [frame[:, :, 0].copy() for frame in islice(read_by_opencv(tmp_path / "masks.mp4"), len(direct))]
    reduced = [np.stack([cv2.resize(mask, size) for mask in found]) > 127 for found in (direct, stored)]
    assert np.array_equal(np.stack(direct) > 127, np.stack(stored) > 127)
    assert np.count_nonzero(reduced[0] != reduced[1]) > 20
