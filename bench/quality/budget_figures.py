"""Figures of a budget measurement: arms with intervals, shares of the oracle's gain, what ranks predict.

Opens no file. Intervals are 95 %, percentile bootstrap over scenes; differences are paired by scene.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.analysis.bootstrap import mean_ci95, ratio_ci95
from bench.quality.budget_arms import (
    BUDGETS,
    PLAN_FIRST,
    Costs,
    Scene,
    ScoutPlan,
    Spent,
    arms,
    combinations_of,
    oracle,
)
from bench.quality.candidate_pool import Key
from bench.quality.selector_figures import spearman
from engine.loop.ranking import mean_ranks

BEST_OF = "best of "
LEAST_RANKED = 3
"""Candidates of a scene of which an order is worth a figure."""


def table(
    scenes: Sequence[Scene], costs: Costs, choosers: Sequence[str], plans: Sequence[ScoutPlan]
) -> dict[str, list[dict[str, Spent]]]:
    """By budget, the arms of each scene in their order."""
    return {f"{b}x": [arms(scene, b, costs, choosers, plans) for scene in scenes] for b in BUDGETS}


def budgets(scenes: Sequence[Scene], found: Mapping[str, Sequence[Mapping[str, Spent]]]) -> dict[str, Any]:
    """Each arm that every scene has, by budget: mean, cost, gain over a single take, and its share."""
    names, bound = [scene.name for scene in scenes], _bounds(scenes)
    document: dict[str, Any] = {}
    for budget, rows in found.items():
        common = [name for name in rows[0] if all(name in row for row in rows)]
        document[budget] = {name: _arm([row[name] for row in rows], rows, names, bound) for name in common}
        by_category: dict[str, Any] = {}
        for category in sorted({scene.category for scene in scenes}):
            places = [place for place, scene in enumerate(scenes) if scene.category == category]
            own = [names[place] for place in places]
            by_category[category] = {
                name: mean_ci95([rows[place][name].value for place in places], own) | {"n": len(places)}
                for name in common
            }
        document[budget]["by_category"] = by_category
    return document


def _arm(
    spent: Sequence[Spent], rows: Sequence[Mapping[str, Spent]], names: Sequence[str], bound: Sequence[float]
) -> dict[str, Any]:
    gains = [one.value - row["single"].value for one, row in zip(spent, rows, strict=True)]
    return {
        **mean_ci95([one.value for one in spent], names),
        "cost": float(np.mean([one.cost for one in spent])),
        "num": float(np.mean([one.num for one in spent])),
        "minus_single": mean_ci95(gains, names),
        "share_of_oracle": ratio_ci95(gains, bound, names),
    }


def _bounds(scenes: Sequence[Scene]) -> list[float]:
    """The gain of the best of eight full takes over the single one."""
    return [max(0.0, oracle(scene) - _single(scene)) for scene in scenes]


def _single(scene: Scene) -> float:
    return scene.values[Key(0, 0)]


def chosen_plan(
    found: Mapping[str, Mapping[str, Any]], plans: Sequence[ScoutPlan], budget: str, default: ScoutPlan
) -> ScoutPlan | None:
    """`default` where the budget has room for it, else the first that has; None: none has."""
    ordered = (default, *plans)
    return next((plan for plan in ordered if plan.name in found[budget]), None)


def best_of(found: Mapping[str, Mapping[str, Any]], budget: str) -> str:
    """The best-of-N with the highest mean here, of all prompts and choosers: flattered by that."""
    names = [name for name in found[budget] if name.startswith(BEST_OF)]
    return max(names, key=lambda name: found[budget][name]["mean"])


def summary(
    scenes: Sequence[Scene],
    rows: Mapping[str, Sequence[Mapping[str, Spent]]],
    found: Mapping[str, Mapping[str, Any]],
    plans: Mapping[str, ScoutPlan | None],
    seconds: float | None,
) -> dict[str, Any]:
    """The figures that the aims are about; null where a budget has no room for scouts. `plans`: by budget."""
    names = [scene.name for scene in scenes]

    def share(budget: str) -> Any:
        plan = plans[budget]
        return None if plan is None else found[budget][plan.name]["share_of_oracle"]["value"]

    def minus(budget: str, other: str) -> Any:
        plan, against = plans[budget], best_of(found, other)
        if plan is None:
            return None
        pairs = zip(rows[budget], rows[other], strict=True)
        return mean_ci95([a[plan.name].value - b[against].value for a, b in pairs], names) | {
            "scouts": plan.name,
            "budget": budget,
            "against": against,
        }

    return {
        "share_of_oracle_at_2x": share("2x"),
        "share_of_oracle_at_8x": share("8x"),
        "plan_first_share_of_oracle": (
            found["2x"][PLAN_FIRST]["share_of_oracle"]["value"] if PLAN_FIRST in found["2x"] else None
        ),
        "scout_minus_best_of_2": minus("2x", "2x"),
        "scout_minus_best_of_8": minus("4x", "8x"),
        "seconds_per_scenario_h200": seconds,
    }


def rank_prediction(scenes: Sequence[Scene], choosers: Sequence[str]) -> list[dict[str, Any]]:
    """Spearman's rho, within scenes, of looks against the takes that they become, by form and steps.

    A look is ranked by its own case score, and by each chooser and all together; a take by its case score.
    Mean over the scenes in which neither is constant, and over those of each kind of scene.
    """
    forms = sorted({(key.steps, key.whole) for scene in scenes for key in scene.looks})
    found = []
    for steps, whole in forms:
        for by in ("score", *map("+".join, combinations_of(choosers))):
            rhos = [(scene, _rho(scene, steps, whole, by)) for scene in scenes]
            known = [(scene.kind, scene.name, rho) for scene, rho in rhos if rho is not None]
            kinds = sorted({kind for kind, _, _ in known})
            found.append(
                {
                    "steps": steps,
                    "form": "whole" if whole else "first",
                    "by": by,
                    **mean_of([one[1:] for one in known]),
                    "by_kind": {
                        kind: mean_of([one[1:] for one in known if one[0] == kind]) for kind in kinds
                    },
                }
            )
    return found


def mean_of(known: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Of a figure by scene name, with how many have it; null where none has."""
    if not known:
        return {"mean": None, "ci95": None, "n": 0}
    return mean_ci95([rho for _, rho in known], [name for name, _ in known]) | {"n": len(known)}


def _rho(scene: Scene, steps: int, whole: bool, by: str) -> float | None:
    looks = tuple(key for key in scene.looks if (key.steps, key.whole) == (steps, whole))
    if len(looks) < LEAST_RANKED or (by == "score" and not all(key in scene.values for key in looks)):
        return None
    if by == "score":
        said = [scene.values[key] for key in looks]
    else:
        said = _mean_ranks_of(scene, looks, by.split("+"))
    return spearman(np.array(said), np.array([scene.values[key.take] for key in looks]))


def _mean_ranks_of(scene: Scene, looks: Sequence[Any], names: Sequence[str]) -> list[float]:
    scores = [{name: entry[name] for name in names if name in entry} for entry in scene.scores(tuple(looks))]
    ranks = mean_ranks(scores)
    worst = float(len(looks))
    return [-worst if rank is None else -rank for rank in ranks]
