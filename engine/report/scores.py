"""The benchmark's scores of a run by category, view and scenario, from scores.json to plots.

Knows the scorer's file and no scorer. A group that cannot be scored has None, which a plot shows as a dash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from engine.report.charts import Estimate, Series, bar_chart
from engine.types import Attempt

KEYS = {"category": "by_category", "view": "by_view", "scenario": "by_scenario"}
MIN_GROUPS = 2  # one bar says what the headline says


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    """Both dataset scores in percent on the cases of one group."""

    original: float | None
    verified: float | None
    num_cases: int


Groups = Mapping[str, Mapping[str, GroupScore]]
"""By kind of grouping, a key of KEYS, and name of the group."""


def read_groups(document: Mapping[str, Any]) -> Groups:
    """From a parsed scores.json, nothing where an older scorer wrote it. KeyError or TypeError if damaged."""
    groups = document.get("groups")
    if groups is None:
        return {}
    return {
        kind: {str(name): _group(groups[name]) for name in document.get(key, {})}
        for kind, key in KEYS.items()
    }


def why_missing(take: Attempt | None, *, scored: bool) -> str:
    """Why a take has no score in the page's measure, for where it would stand; scored: by the scorer."""
    if take is None:
        return "no take"
    if scored:
        return "not scored"
    return "not judged" if take.critique is None else "unreadable"


def score_plots(groups: Groups) -> dict[str, Markup]:
    """One plot for each kind of grouping that has several groups; scenarios from the worst to the best."""
    plots = {}
    for kind, scores in groups.items():
        if len(scores) < MIN_GROUPS:
            continue
        names = sorted(scores)
        if kind == "scenario":
            names.sort(key=lambda name: scores[name].verified or 0.0)
        series = [
            Series(name=name, css=css, points=tuple(_point(scores[group], field) for group in names))
            for name, css, field in (("Original", "first", "original"), ("Verified", "chosen", "verified"))
        ]
        labels = [name.removeprefix("trimmed-").removeprefix("perspective-") for name in names]
        plots[kind] = bar_chart(labels, series, title=f"Physics-IQ by {kind}")
    return plots


def _group(entry: Mapping[str, Any]) -> GroupScore:
    original, verified = entry["physics_iq"], entry["physics_iq_verified"]
    return GroupScore(
        original=None if original is None else float(original),
        verified=None if verified is None else float(verified),
        num_cases=int(entry["num_cases"]),
    )


def _point(score: GroupScore, field: str) -> Estimate | None:
    value = getattr(score, field)
    return None if value is None else Estimate(mean=value, low=None, high=None, n=score.num_cases)
