"""The selector rank_sum: the members' ranks are added, never their scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import plugins
from engine.selectors import rank_sum
from engine.selectors.rank_sum import MEMBERS, RankSum
from engine.types import Attempt, Clip, Scenario, SelectorSettings, Video

SCENARIO = Scenario(
    id="1",
    text="a",
    prefix=Clip(path=Path("prefix.mp4"), fps=8.0, num_frames=24, width=16, height=16),
    category="c",
    output_name="1.mp4",
)
TAKES = [Video(frames=np.zeros((4, 16, 16, 3), np.uint8), fps=8.0)] * 3


@dataclass(frozen=True)
class Fixed:
    scores: tuple[float, ...]

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        return list(self.scores)


def ranked(**members: tuple[float, ...]) -> list[float]:
    selector = RankSum(members={name: Fixed(scores) for name, scores in members.items()})
    return selector.score(SCENARIO, TAKES, [])


def test_scales_of_members_do_not_matter() -> None:
    assert ranked(a=(1.0, 2.0, 3.0), b=(0.0, -1e9, 1e9)) == [-1.5, -1.5, 0.0]
    assert ranked(a=(1.0, 2.0, 3.0), b=(0.0, -1e-9, 1e-9)) == [-1.5, -1.5, 0.0]


def test_equal_scores_share_a_rank() -> None:
    assert ranked(a=(5.0, 5.0, 1.0)) == [0.0, 0.0, -2.0]


def test_a_take_that_a_member_cannot_score_has_no_score() -> None:
    assert ranked(a=(1.0, 2.0, 3.0), b=(1.0, -math.inf, 0.0)) == [-1.0, -math.inf, -0.5]


def test_a_member_that_scores_nothing_has_no_say() -> None:
    assert ranked(a=(1.0, 2.0, 3.0), b=(-math.inf,) * 3) == ranked(a=(1.0, 2.0, 3.0))


def test_the_members_are_other_selectors() -> None:
    selector = rank_sum.build(SelectorSettings())
    assert isinstance(selector, RankSum) and tuple(selector.members) == MEMBERS
    assert set(MEMBERS) < set(plugins.names("engine.selectors")) - {"rank_sum"}
