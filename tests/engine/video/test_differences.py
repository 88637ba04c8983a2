"""Where clips differ."""

from __future__ import annotations

import numpy as np

from engine.video.differences import disagreement


def test_it_is_the_variance_of_cells_and_zero_where_clips_agree() -> None:
    clips = np.full((3, 2, 24, 16, 3), 90, np.uint8)
    clips[0, 1, :8, 8:] = 96
    clips[1, 1, :8, 8:, 0] = 99
    found = disagreement(iter(clips))
    assert found.shape == (2, 3, 2) and found.dtype == np.float32
    assert np.count_nonzero(found) == 1
    of_red, of_others = np.var([96, 99, 90]), np.var([96, 90, 90])
    assert np.isclose(found[1, 0, 1], (of_red + 2 * of_others) / 3)
