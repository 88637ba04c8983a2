"""What a critic's score says of the benchmark's: calibration, right verdicts, correlation within a scene.

The label of a take is its case score against a threshold that is fixed beforehand, not the critic's own
words. Knows no run folder. A calibrated score of 80 means that 80 of 100 such takes are acceptable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.analysis.bootstrap import mean_ci95
from bench.scoring.view_metrics import Case, case_score
from engine.demo.training.critic_text import ACCEPT_CASE_SCORE
from engine.loop.expected_gain import share_of
from engine.types import Outcome, Verdict

NUM_BINS = 10
SURE = 10.0
"""Points from the threshold beyond which a take is clearly good or bad."""
LEAST_TAKES = 3
"""Of a scene, for a correlation within it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedTake:
    """What the critic said of a take, in [0, 100] or None where unreadable, and its case score in points."""

    scene: str
    stated: float | None
    verdict: Verdict
    case_score: float

    @property
    def acceptable(self) -> bool:
        return self.case_score >= ACCEPT_CASE_SCORE

    @property
    def is_clear(self) -> bool:
        """Whether the take is clearly good or bad."""
        return abs(self.case_score - ACCEPT_CASE_SCORE) > SURE

    @property
    def is_right(self) -> bool:
        """An unreadable reply is wrong."""
        return self.verdict is (Verdict.ACCEPT if self.acceptable else Verdict.REVISE)


def stated_takes(outcomes: Mapping[str, Outcome], attempts: Sequence[tuple[int, Case]]) -> list[StatedTake]:
    """Every critiqued take that has a case score."""
    cases = {(case.scenario_id, index): case for index, case in attempts}
    return [
        StatedTake(
            scene=case.scene,
            stated=attempt.critique.score,
            verdict=attempt.critique.verdict,
            case_score=case_score(case.metrics).score,
        )
        for scenario_id, outcome in outcomes.items()
        for attempt in outcome.attempts
        if attempt.critique is not None and (case := cases.get((scenario_id, attempt.index))) is not None
    ]


def calibrated(takes: Sequence[StatedTake], shares: Sequence[float]) -> list[StatedTake]:
    """With the probability, in percent, that a gain model gives takes of such a score."""
    return [
        take if take.stated is None else replace(take, stated=100.0 * shares[share_of(take.stated)])
        for take in takes
    ]


def reliability(takes: Sequence[StatedTake]) -> dict[str, Any]:
    """Figures of all takes; a figure is null where there is nothing to take it of.

    `bins`: takes by stated score, each with the mean that was stated and the share that is acceptable, in
    percent. `calibration_error`: mean absolute difference of both, weighed by takes (expected calibration
    error, Guo et al. 2017, arXiv 1706.04599). `within_scene`: Pearson correlation of the differences from the
    scene's means.
    """
    read = [take for take in takes if take.stated is not None]
    bins = _bins(read)
    errors = [abs(one["stated"] - one["acceptable"]) * one["num"] for one in bins]
    return {
        "threshold": ACCEPT_CASE_SCORE,
        "num": len(takes),
        "num_acceptable": sum(take.acceptable for take in takes),
        "bins": bins,
        "calibration_error": sum(errors) / len(read) if read else None,
        "balanced_accuracy": _balanced(takes),
        "balanced_accuracy_sure": _balanced([take for take in takes if take.is_clear]),
        "within_scene": _within_scene(read),
    }


def _bins(read: Sequence[StatedTake]) -> list[dict[str, Any]]:
    width = 100.0 / NUM_BINS
    groups: dict[int, list[StatedTake]] = {}
    for take in read:
        assert take.stated is not None
        groups.setdefault(min(int(take.stated / width), NUM_BINS - 1), []).append(take)
    found = []
    for place, group in sorted(groups.items()):
        share = mean_ci95([100.0 * take.acceptable for take in group], [take.scene for take in group])
        found.append(
            {
                "from": place * width,
                "to": (place + 1) * width,
                "num": len(group),
                "stated": float(np.mean([take.stated for take in group])),
                "acceptable": share["mean"],
                "ci95": share["ci95"],
            }
        )
    return found


def _balanced(takes: Sequence[StatedTake]) -> float | None:
    """Mean of the shares that are right of acceptable takes and of others; None without both kinds."""
    sides = [[take.is_right for take in takes if take.acceptable is side] for side in (True, False)]
    return float(np.mean([np.mean(side) for side in sides])) if all(sides) else None


def _within_scene(read: Sequence[StatedTake]) -> float | None:
    scenes: dict[str, list[StatedTake]] = {}
    for take in read:
        scenes.setdefault(take.scene, []).append(take)
    pairs = [
        np.array([[take.stated, take.case_score] for take in group], dtype=np.float64)
        for group in scenes.values()
        if len(group) >= LEAST_TAKES
    ]
    if not pairs:
        return None
    centred = np.concatenate([pair - pair.mean(axis=0) for pair in pairs])
    sizes = np.linalg.norm(centred, axis=0)
    return float(centred[:, 0] @ centred[:, 1] / sizes.prod()) if sizes.all() else None
