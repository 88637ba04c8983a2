"""Ranks over several selectors: the one way in which scores of different scales are combined.

Knows no takes and no selectors. Invariants: the result does not depend on the order of the items, and a
missing score is never treated as a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def score_rows(columns: Mapping[str, Sequence[float]], num_items: int) -> list[dict[str, float]]:
    """By selector, one entry an item, from a column a selector; minus infinity, "no score", is left out."""
    assert all(len(column) == num_items for column in columns.values()), f"{columns} for {num_items} items"
    return [
        {name: column[row] for name, column in columns.items() if math.isfinite(column[row])}
        for row in range(num_items)
    ]


def mean_ranks(scores: Sequence[Mapping[str, float]]) -> list[float | None]:
    """Mean over the selectors of each item's rank: 0 is best, equal scores share a rank, lower is better.

    `scores` holds one entry an item, score by selector, higher is better. None: a selector that scored some
    other item left this one out, so its ranks cannot be compared.
    """
    names = sorted({name for entry in scores for name in entry})
    ranks: list[float | None] = []
    for entry in scores:
        own = [
            sum(other.get(name, score) > score for other in scores) for name, score in entry.items()
        ]  # an item that the selector left out is ahead of nobody
        ranks.append(sum(own) / len(names) if names and len(own) == len(names) else None)
    return ranks
