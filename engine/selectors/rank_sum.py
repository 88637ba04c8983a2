"""The selector "rank_sum": the take that several selectors put in front, by the sum of their ranks.

Its members are MEMBERS; to combine others, name them together (`--by consensus,vjepa`). Invariant: scores of
different scales are never added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine import plugins
from engine.loop.ranking import mean_ranks, score_rows
from engine.protocols import Selector
from engine.types import Attempt, Scenario, SelectorSettings, Video

MEMBERS = ("consensus", "geometry", "static_camera")
"""Of all sets of two or three of these and `vjepa` the one with the largest share of the oracle's gain on 72
of 75 tuning scenes (4 takes each, seeds that no result uses): 0.41, standard error 0.09. In the other three a
mask of a few pixels decides over 50 points, and `consensus` alone chooses better. `critic_score` is left out:
a take without a critique would have no rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSum:
    members: Mapping[str, Selector]

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """Minus the mean rank, 0.0 for first everywhere; minus infinity where a member has no score."""
        columns = {name: member.score(scenario, takes, attempts) for name, member in self.members.items()}
        ranks = mean_ranks(score_rows(columns, len(takes)))
        return [-math.inf if rank is None else -rank for rank in ranks]


def build(settings: SelectorSettings) -> Selector:
    return RankSum(members={name: plugins.load(__package__, name).build(settings) for name in MEMBERS})
