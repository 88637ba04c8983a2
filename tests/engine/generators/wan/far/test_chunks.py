"""Which frames are a chunk, and what the context of one holds."""

from __future__ import annotations

import pytest

from engine.generators.wan.far.chunks import borders, context_tokens, num_compressed, partition_of

TRAINED = (1, 3, 3, 3, 3, 3, 3, 2)


def test_the_published_length_has_the_published_partition() -> None:
    assert partition_of(TRAINED, 13, 21) == (TRAINED, 5)
    assert partition_of(TRAINED, 1, 21) == (TRAINED, 1)


@pytest.mark.parametrize("prefix", range(1, 21))
def test_a_prefix_ends_with_a_chunk_or_is_refused(prefix: int) -> None:
    """Latents between the prefix and the next border would never be made."""
    found = partition_of(TRAINED, prefix, 33)
    assert (found is not None) == (prefix in borders(TRAINED, 33))
    if found is not None:
        chunks, count = found
        assert sum(chunks) == 33 and sum(chunks[:count]) == prefix


def test_the_last_chunks_are_whole_and_the_others_compressed() -> None:
    assert [num_compressed(past, 3) for past in range(6)] == [0, 0, 0, 1, 2, 3]
    zeros_and_whole, compressed, own = context_tokens(TRAINED, 3, 100, 25)
    assert (zeros_and_whole, compressed, own) == (128 + 600, 25 * 13, 300)
