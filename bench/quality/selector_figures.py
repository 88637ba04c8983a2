"""How well target-free selectors choose: scores, gains and shares of the oracle's gain, from scored takes.

Opens no file. A pool holds the takes of one scenario among which is chosen. The oracle, which chooses by the
benchmark score, is a bound. Random choice is the mean over the pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.bootstrap import mean_ci95, ratio_ci95
from bench.analysis.take_choice import Scores, choose
from engine.types import Attempt

Combination = tuple[str, ...]
"""Selectors whose ranks are added; one alone is itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """`values` are the case scores of the takes in percent, `scores` what the selectors said of these."""

    scene: str
    attempts: tuple[Attempt, ...]
    values: tuple[float, ...]
    scores: Scores
    first: float  # case score of the scenario's very first take
    loop: float  # of the take that the loop chose

    def chosen(self, by: Combination) -> float:
        return self.values[choose(self.attempts, self.scores, by)]

    @property
    def random(self) -> float:
        return float(np.mean(self.values))


def all_combinations(names: Sequence[str]) -> list[Combination]:
    return [chosen for size in range(1, len(names) + 1) for chosen in combinations(names, size)]


def reported_combinations(names: Sequence[str], *, rank_sums: bool) -> list[Combination]:
    """Every selector alone; with `rank_sums` also every pair, and all together."""
    sizes = {1, 2, len(names)} if rank_sums else {1}
    return [chosen for chosen in all_combinations(names) if len(chosen) in sizes]


def name_of(combination: Combination) -> str:
    return "+".join(combination)


def figures(pools: Sequence[Pool], combos: Iterable[Combination]) -> dict[str, Any]:
    """One set of pools: the arms that need no selector, and each combination with its gains and share."""
    scenes = [pool.scene for pool in pools]
    random = [pool.random for pool in pools]
    bound = [max(pool.values) - pool.random for pool in pools]

    def mean(values: Iterable[float]) -> dict[str, Any]:
        return mean_ci95(list(values), scenes)

    choosers = {}
    for combination in combos:
        chosen = [pool.chosen(combination) for pool in pools]
        gains = [value - base for value, base in zip(chosen, random, strict=True)]
        choosers[name_of(combination)] = {
            **mean(chosen),
            "minus_first": mean(value - pool.first for value, pool in zip(chosen, pools, strict=True)),
            "minus_random": mean(gains),
            "share": ratio_ci95(gains, bound, scenes),
        }
    return {
        "n": len(pools),
        "takes_per_scenario": float(np.mean([len(pool.values) for pool in pools])),
        "first_take": mean(pool.first for pool in pools),
        "loop": mean(pool.loop for pool in pools),
        "loop_minus_first": mean(pool.loop - pool.first for pool in pools),
        "random": mean(random),
        "oracle": mean(max(pool.values) for pool in pools),
        "oracle_minus_random": mean(bound),
        "choosers": choosers,
    }


def best_combination(sets: Mapping[str, Sequence[Pool]], names: Sequence[str]) -> tuple[Combination, float]:
    """The combination with the largest gain over random choice, averaged over the sets, and that gain.

    For scenes that are not those of the measurement: choosing the best of many on the scenes that it is then
    measured on would flatter it. Of equals the one with fewer selectors.
    """

    def gain(combination: Combination) -> float:
        of_set = [
            np.mean([pool.chosen(combination) - pool.random for pool in pools]) for pools in sets.values()
        ]
        return float(np.mean(of_set))

    gains = {combination: gain(combination) for combination in all_combinations(names)}
    best = max(gains, key=lambda combination: (round(gains[combination], 9), -len(combination)))
    return best, gains[best]


def rank_correlation(pools: Sequence[Pool], name: str) -> dict[str, Any]:
    """Spearman's rho between a selector's scores and the case scores within scenarios, mean over scenarios.

    Over scenarios of at least three scored takes in which neither is constant; `n` says how many these are.
    """
    found: list[float] = []
    scenes = []
    for pool in pools:
        scored = [
            (entry[name], value)
            for entry, value in zip(pool.scores, pool.values, strict=True)
            if name in entry
        ]
        rho = spearman(*np.array(scored, np.float64).T) if len(scored) >= 3 else None
        if rho is not None:
            found.append(rho)
            scenes.append(pool.scene)
    if not found:
        return {"mean": None, "ci95": None, "n": 0}
    return {**mean_ci95(found, scenes), "n": len(found)}


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Rank correlation with shared ranks for ties; None where one side is constant."""
    first, second = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    spread = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / spread if spread > 0 else None


def coverage(pools: Sequence[Pool], name: str) -> float:
    """Share of the takes that the selector gave a score."""
    return float(np.mean([name in entry for pool in pools for entry in pool.scores]))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], np.float64)
