"""The selector "critic_score": a take is as good as the critic said.

Looks at no pixels. Invariant: a take without a readable score ranks below every scored one and gets no
invented number (minus infinity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.protocols import Selector
from engine.types import Attempt, Scenario, SelectorSettings, Video


@dataclass(frozen=True, slots=True)
class CriticScore:
    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """0 to 100 for each attempt, or minus infinity where its critique is missing or unreadable."""
        scores = (None if attempt.critique is None else attempt.critique.score for attempt in attempts)
        return [float("-inf") if score is None else score for score in scores]


def build(settings: SelectorSettings) -> Selector:
    return CriticScore()
