"""Block masks: lists equal the mask token by token, neighbourhoods hold every neighbour, no row is empty."""

from __future__ import annotations

import itertools

import pytest
import torch

from kernels.attention._blocks import BlockMask


def test_lists_and_tokens_say_the_same() -> None:
    visible = torch.tensor([[True, False, True], [False, True, False]])
    mask = BlockMask.of(visible, q_len=20, kv_len=40, block=16)
    assert mask.counts.tolist() == [2, 1] and mask.indices[0].tolist() == [0, 2] and mask.indices[1, 0] == 1
    dense = mask.dense()
    assert dense.shape == (20, 40)
    for query, key in itertools.product(range(20), range(40)):
        assert dense[query, key] == visible[query // 16, key // 16]
    assert mask.density == 0.5


def test_indices_ascend() -> None:
    visible = torch.rand(7, 9, generator=torch.Generator().manual_seed(3)) < 0.5
    visible[:, 4] = True
    mask = BlockMask.of(visible, q_len=7 * 16, kv_len=9 * 16, block=16)
    for row, count in zip(mask.indices.tolist(), mask.counts.tolist(), strict=True):
        assert row[:count] == sorted(row[:count])


def test_a_row_without_keys_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1\]"):
        BlockMask.of(torch.tensor([[True], [False]]), q_len=32, kv_len=16, block=16)


@pytest.mark.parametrize("change", [{"block": 24}, {"block": 8}, {"q_len": 64}])
def test_inconsistent_lists_are_refused(change: dict) -> None:
    fields = {"q_len": 32, "kv_len": 32, "block": 16} | change
    ones = torch.ones(2, dtype=torch.int32)
    with pytest.raises(AssertionError):
        BlockMask(indices=torch.zeros((2, 1), dtype=torch.int32), counts=ones, **fields)


def test_neighbourhood_holds_the_blocks_of_every_neighbour_and_no_other() -> None:
    grid, window = (3, 5, 7), (1, 1, 2)
    mask = BlockMask.neighbourhood(grid=grid, window=window, block=16)
    places = list(itertools.product(range(3), range(5), range(7)))
    expected = torch.zeros(7, 7, dtype=torch.bool)
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            expected[i // 16, j // 16] |= all(abs(x - y) <= w for x, y, w in zip(a, b, window, strict=True))
    assert torch.equal(mask.dense()[::16, ::16], expected) and not expected.all()


def test_neighbourhood_of_a_video_hides_most() -> None:
    """480p: a block is 2.5 rows of 52; it sees 5 of 21 frames and about half of the rows there."""
    mask = BlockMask.neighbourhood(grid=(21, 30, 52), window=(2, 6, 6))
    assert mask.q_len == 32760 and 0.1 < mask.density < 0.2
    last = int(mask.indices[0, : mask.counts[0]].max())
    # Its last token is in row 2, column 23; the last one that this sees is in frame 2, row 8, column 29.
    assert last == ((2 * 30 + 8) * 52 + 29) // 128


def test_a_window_over_everything_is_dense() -> None:
    assert BlockMask.neighbourhood(grid=(2, 4, 4), window=(2, 4, 4), block=16).density == 1.0
