"""Squared errors in blocks: every bit as numpy adds up whole frames."""

from __future__ import annotations

import numpy as np
import pytest

from bench.scoring import frame_errors
from bench.scoring.frame_errors import SquaredErrors
from bench.scoring.view_metrics import squared_error


@pytest.mark.parametrize("size", [(540, 960), (1080, 1920), (133, 211), (301, 437), (27, 48), (1, 1)])
def test_bit_equal_to_the_plain_formula(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    frame, *others = (random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(3))
    assert SquaredErrors()(frame, others) == [squared_error(frame, other) for other in others]


def test_the_order_of_summation_matters_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain sum of block sums gives other bits, so that the test above can fail."""
    random = np.random.default_rng(1)
    frame, other = (random.integers(0, 256, (301, 437, 3), dtype=np.uint8) for _ in range(2))
    expected = squared_error(frame, other)
    monkeypatch.setattr(frame_errors, "BLOCK", 1000)
    assert SquaredErrors()(frame, [other]) == [expected]
    squares = ((frame / 255.0).astype(np.float32) - (other / 255.0).astype(np.float32)).reshape(-1) ** 2
    blocks = [squares[start : start + 1000].sum() for start in range(0, squares.size, 1000)]
    assert float(np.float32(sum(blocks)) / np.float32(squares.size)) != expected


def test_a_frame_agrees_with_itself() -> None:
    frame = np.random.default_rng(2).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    assert SquaredErrors()(frame, [frame, 255 - frame])[0] == 0.0
