"""Choosing among the stored takes of one scenario by target-free selectors, as `retake select` does.

Reads takes, never references or benchmark scores; the takes may come from several runs.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.loop.ranking import score_rows
from engine.loop.selection import StoredTakes, best_take
from engine.protocols import Selector
from engine.types import Attempt, Scenario, Video

Scores = list[dict[str, float]]
"""Of each take by selector; a selector that gives a take no score is absent there."""


class TakeReader:
    """Decodes takes of one scenario when a selector looks at them, and keeps what its cache can hold."""

    def __init__(self) -> None:
        self._cache: OrderedDict[Path, Video] = OrderedDict()

    def of(self, paths: Sequence[Path]) -> Sequence[Video]:
        return StoredTakes(Path.cwd(), [path.absolute() for path in paths], self._cache)


def score_takes(
    selectors: Mapping[str, Selector],
    scenario: Scenario,
    takes: Sequence[Video],
    attempts: Sequence[Attempt],
) -> tuple[Scores, dict[str, float]]:
    """Scores of each take among these, and the seconds that each selector took."""
    columns: dict[str, list[float]] = {}
    seconds = {}
    for name, selector in selectors.items():
        start_s = time.perf_counter()
        columns[name] = selector.score(scenario, takes, attempts)
        seconds[name] = time.perf_counter() - start_s
    return score_rows(columns, len(attempts)), seconds


def choose(attempts: Sequence[Attempt], scores: Scores, by: Sequence[str]) -> int:
    """Position of the best take by mean rank over the selectors `by`: the loop's rule without a critique."""
    return best_take(attempts, [{name: entry[name] for name in by if name in entry} for entry in scores])
