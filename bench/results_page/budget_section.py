"""The section of loops at equal cost: arms by budget, against their aims, and what a scout's rank predicts.

Measures nothing and holds no number but the aims: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

AIMS = {"share_of_oracle_at_2x": 0.40, "share_of_oracle_at_8x": 0.60}
DIFFERENCES = {
    "scout_minus_best_of_2": "2x, above best-of-2",
    "scout_minus_best_of_8": "4x, above best-of-8",
}
PLAN_FIRST = "plan first"
FIXED = ("single", "paper", PLAN_FIRST, "oracle")


def loop_budget(file: ResultFile) -> md.Section:
    document, costs = file.document, file.document["costs"]
    return md.Section(
        title="What does a GPU second buy?",
        headline=_headline(document["summary"]),
        body=md.paragraphs(
            f"{counted(document['num_scenarios'], 'scenario')}{_missing(document)}. A budget is a multiple "
            "of a single "
            f"take of {costs['take_steps']} steps, which costs {costs['take_s']:.1f} s; a plan costs "
            f"{costs['plan_s']:.1f} s and a critique {costs['critique_s']:.1f} s, beside takes.",
            _arms(document),
            "The scouts were not looked for on these scenes. What is called best scouts was, and so is "
            "best-of-N: of all choosers and prompts the best one here.",
            _by_category(document),
            _ranks(document),
        ),
    )


def _missing(document: Mapping[str, Any]) -> str:
    missing = document.get("num_missing")
    return f"; the candidates of {missing} more were not made" if missing else ""


def _headline(found: Mapping[str, Any]) -> str:
    parts = []
    if (share := found.get("plan_first_share_of_oracle")) is not None:
        parts.append(f"the take of the plan alone gains {md.percent(share)} of the oracle's")
    for name, aim in AIMS.items():
        share = found[name]
        if share is not None:
            met = "met" if share >= aim else "**missed**"
            gain = f"scouts at {name[-2:]} gain {md.percent(share)} of the oracle's"
            parts.append(f"{gain}, aim {md.percent(aim)}, {met}")
    for name, words in DIFFERENCES.items():
        if found[name] is not None:
            parts.append(f"at {words}: {md.interval(found[name], digits=2, sign='+')} points")
    return "; ".join(parts) or "no budget had room for scouts"


def _arms(document: Mapping[str, Any]) -> str:
    rows = []
    for budget, found in document["budgets"].items():
        spent = document["scouts"][budget]
        named = {
            "single": "single",
            "best-of-N": document["best_of"][budget],
            "paper": "paper",
            PLAN_FIRST: PLAN_FIRST,
            "scouts": document["scouts_by_name"][budget] if spent is not None else None,
            "best scouts": document["best_scouts"][budget],
            "oracle": "oracle",
        }
        for label, name in named.items():
            if name not in found:
                continue
            one = found[name]
            share = one["share_of_oracle"]["value"]
            rows.append(
                [
                    budget,
                    label if label in FIXED else f"{label}: {name}",
                    md.whole(one["num"]),
                    md.times(one["cost"]),
                    md.interval(one),
                    md.interval(one["minus_single"], digits=2, sign="+"),
                    md.percent(share),
                ]
            )
    header = ["budget", "arm", "of", "cost", "case score", "above single", "of the oracle's gain"]
    return md.table(header, rows, num_text_columns=2)


def _by_category(document: Mapping[str, Any]) -> str | None:
    """Scouts above the single take at twice its cost."""
    found, name = document["budgets"]["2x"], document["scouts_by_name"]["2x"]
    if name is None:
        return None
    rows = [
        [category, str(arms[name]["n"]), *(md.interval(arms[arm]) for arm in ("single", name, "oracle"))]
        for category, arms in found["by_category"].items()
    ]
    return md.table(["category, at 2x", "n", "single", "scouts", "oracle"], rows)


def _ranks(document: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{row['steps']} {row['form']}",
            row["by"],
            str(row["n"]),
            md.interval(row, digits=2, sign="+"),
            _kinds(row),
        ]
        for row in document["rank_prediction"]
    ]
    header = ["look", "ranked by", "n", "Spearman with its take", "worst and best kind of scene"]
    return md.table(header, rows, num_text_columns=2)


def _kinds(row: Mapping[str, Any]) -> str:
    known = {kind: found["mean"] for kind, found in row["by_kind"].items() if found["mean"] is not None}
    if len(known) < 2:
        return md.NONE
    ordered = sorted(known, key=lambda kind: known[kind])
    return ", ".join(f"{kind} {known[kind]:+.2f}" for kind in (ordered[0], ordered[-1]))
