"""What a take is expected to gain over the plan's, from all that critic and selectors say of it.

A linear model of the differences within a scenario, fitted on scenes whose scores are known (bench/quality/
fit_gain.py). Knows no model, no file and no clock. Invariants: the gain of the plan's take is 0; what is not
known of a take neither helps nor harms it; ranks are taken among the takes that are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.types import Attempt, Verdict

EXPECTED_GAIN = "expected_gain"
"""Its name among the scores of a take: a lower bound, in points of the benchmark's case score."""
SCORE, ACCEPTED, UNREADABLE, TOLD, REVISED = "critic_score", "accepted", "unreadable", "told", "revised"
OF_CRITIQUE = (SCORE, ACCEPTED, UNREADABLE)
OF_PROMPT = (TOLD, REVISED)
RANK = "rank "
"""Before a selector's name: the share of the other takes that it puts below this one, ties by half."""

ACCEPTABLE = "acceptable"
"""Its name among the scores of a take: the probability that its case score is acceptable, by the critic's."""
NUM_SHARES = 11
"""Critic scores by tenths; 100 is apart, for a critic that does not look may say it."""

Features = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GainModel:
    """Points per unit of each feature, and how sure they are.

    `covariance` of the weights has their order. `deviations`: how many of its standard deviations an expected
    gain is lowered by, so that a take must be surely better than the plan's to stand before it.
    """

    weights: Mapping[str, float]
    covariance: tuple[tuple[float, ...], ...]
    deviations: float
    acceptable: tuple[float, ...] = ()
    """Of takes whose score of the critic is in each tenth, and of those of 100, the share that is acceptable
    (histogram binning, Zadrozny and Elkan 2001); empty: not fitted."""

    def __post_init__(self) -> None:
        size = len(self.weights)
        assert [len(row) for row in self.covariance] == [size] * size, "a row and a column for each weight"
        assert len(self.acceptable) in (0, NUM_SHARES), "a share of each tenth and of 100"

    @property
    def selectors(self) -> tuple[str, ...]:
        """Those whose ranks it reads."""
        return tuple(name.removeprefix(RANK) for name in self.weights if name.startswith(RANK))

    def gains(self, attempts: Sequence[Attempt]) -> list[float]:
        """Of each take the lower bound of what it gains over `plans_take`; of that one 0."""
        rows = features(attempts, self.selectors)
        base = rows[plans_take(attempts)]
        return [self._bound([row[name] - base[name] for name in self.weights]) for row in rows]

    def noted(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """With their gains among their scores, by which `choose_take` then goes, and what is said beside."""
        return [
            replace(
                attempt,
                selector_scores={
                    **attempt.selector_scores,
                    EXPECTED_GAIN: gain,
                    **self._probability(attempt),
                },
            )
            for attempt, gain in zip(attempts, self.gains(attempts), strict=True)
        ]

    def _probability(self, attempt: Attempt) -> dict[str, float]:
        if not self.acceptable or attempt.critique is None or attempt.critique.score is None:
            return {}
        return {ACCEPTABLE: self.acceptable[share_of(attempt.critique.score)]}

    def of_plan(self) -> float:
        """The lower bound of what a take that is told the plan gains over one that is not, before both."""
        return self._bound([float(name == TOLD) for name in self.weights])

    def of_another(self, attempts: Sequence[Attempt], chosen: int) -> float:
        """The lower bound of what a take of a revised prompt gains over the `chosen` one, before it is made.

        What nobody has said of it yet is as of a middling take; it is told a plan, which was revised.
        """
        known = [
            a.critique.score for a in attempts if a.critique is not None and a.critique.score is not None
        ]
        another = dict.fromkeys(self.weights, 0.5)  # of ranks
        another |= {SCORE: sum(known) / len(known) / 100.0 if known else 0.0, ACCEPTED: 0.0, UNREADABLE: 0.0}
        another |= {TOLD: 1.0, REVISED: 1.0}
        now = features(attempts, self.selectors)[chosen]
        return self._bound([another[name] - now[name] for name in self.weights])

    def _bound(self, difference: Sequence[float]) -> float:
        expected = sum(w * d for w, d in zip(self.weights.values(), difference, strict=True))
        variance = sum(
            one * value * other
            for one, row in zip(difference, self.covariance, strict=True)
            for value, other in zip(row, difference, strict=True)
        )
        return expected - self.deviations * math.sqrt(max(variance, 0.0))


def share_of(score: float) -> int:
    """Which of the shares of takes a critic's score, from 0 to 100, belongs to."""
    return int(score // 10)


def plans_take(attempts: Sequence[Attempt]) -> int:
    """Position of the first take that was told the plan; where none was, of the first."""
    assert attempts, "there is a take to compare with"
    told = (place for place, attempt in enumerate(attempts) if attempt.prompt.plan is not None)
    return next(told, 0)


def features(attempts: Sequence[Attempt], selectors: Sequence[str]) -> list[Features]:
    """Of each take. What is missing is as of a middling take: the mean score, half of the others below."""
    scores = [None if a.critique is None else a.critique.score for a in attempts]
    known = [score for score in scores if score is not None]
    mean = sum(known) / len(known) if known else 0.0
    rows: list[Features] = []
    for attempt, score in zip(attempts, scores, strict=True):
        verdict = Verdict.UNREADABLE if attempt.critique is None else attempt.critique.verdict
        rows.append(
            {
                SCORE: (mean if score is None else score) / 100.0,
                ACCEPTED: float(verdict is Verdict.ACCEPT),
                UNREADABLE: float(verdict is Verdict.UNREADABLE),
                TOLD: float(attempt.prompt.plan is not None),
                REVISED: float(attempt.round > 1 or attempt.prompt.revision > 1),
            }
        )
    for name in selectors:
        for row, rank in zip(rows, _ranks([a.selector_scores.get(name) for a in attempts]), strict=True):
            row[RANK + name] = rank
    return rows


def _ranks(values: Sequence[float | None]) -> list[float]:
    """Share of the other values below each, ties by half; 0.5 where there is nothing to compare."""
    known = [value for value in values if value is not None]
    found = []
    for value in values:
        if value is None or len(known) < 2:
            found.append(0.5)
            continue
        below = sum(other < value for other in known)
        equal = sum(other == value for other in known) - 1
        found.append((below + equal / 2) / (len(known) - 1))
    return found
