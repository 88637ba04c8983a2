"""Which latent frames form a chunk, and where in the context each of them lies.

The first frame is alone, as it stands for one pixel frame; chunks behind it are as long as in training. A
chunk is denoised behind a context: the last ones before it whole, older ones compressed, four tokens as one.
F latent frames . K of them prefix
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

QUERY_BLOCK = 128
"""The library fills queries and keys up to a multiple of this with zeros, and while it denoises it lets all
look at those zeros (docs/behaviour.md): models are run with it, so our forward has them too."""


def partition_of(trained: Sequence[int], prefix: int, total: int) -> tuple[tuple[int, ...], int] | None:
    """(frames of each chunk, how many chunks are prefix) for K and F; None where the prefix ends inside a
    chunk. `trained`: the partition that the model has in its configuration."""
    first, usual = trained[0], trained[1] if len(trained) > 1 else trained[0]
    if prefix != first and (prefix < first or (prefix - first) % usual):
        return None
    whole, rest = divmod(total - first, usual)
    chunks = (first, *(usual for _ in range(whole)), *((rest,) if rest else ()))
    return chunks, 1 + (prefix - first) // usual


def borders(trained: Sequence[int], total: int) -> list[int]:
    """Latent frames at which a prefix may end."""
    chunks, _ = partition_of(trained, trained[0], total) or ((), 0)
    return list(accumulate(chunks))[:-1]


def num_compressed(num_past: int, full_chunk_limit: int) -> int:
    """Of so many chunks before the one at work, how many the context has compressed: the limit counts it."""
    return max(0, num_past - (full_chunk_limit - 1))


def context_tokens(
    chunks: Sequence[int], full_chunk_limit: int, full: int, compressed: int
) -> tuple[int, int, int]:
    """Tokens of a context at most: zeros and whole chunks, compressed ones, and the chunk at work. `full` and
    `compressed`: tokens of a frame."""
    longest, old = max(chunks), num_compressed(len(chunks) - 1, full_chunk_limit)
    whole = QUERY_BLOCK + (full_chunk_limit - 1) * longest * full
    return whole, sum(chunks[:old]) * compressed, longest * full
