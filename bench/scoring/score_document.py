"""What a scoring run found, as the JSON document and the printed tables.

Computes no metric: numbers come from `view_metrics` and `aggregates`. Absent scores are null, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.scoring.aggregates import official_aggregates
from bench.scoring.case_record import metric_means
from bench.scoring.case_scoring import Unscored
from bench.scoring.view_metrics import (
    Case,
    case_score,
    original_score,
    verified_score,
    verified_sub_scores,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Everything that one call found out; `attempts` pairs attempt numbers with cases."""

    fps: float
    cases: tuple[Case, ...]
    attempts: tuple[tuple[int, Case], ...]
    unscored: tuple[Unscored, ...]  # expected cases, their attempts, and files that belong to no case
    num_expected: int  # cases of the run, or of the dataset
    num_dataset_cases: int
    tree: str
    revision: str  # of the real clips and masks that were compared with
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()  # of what the run rests on, which the user accepted
    takes: dict[str, Any] | None = None  # of the run when it was scored, as `engine.runs.takes` says

    @property
    def complete(self) -> bool:
        return len(self.cases) == self.num_expected


def report(scores: Scores) -> dict[str, Any]:
    """The JSON document: dataset scores, breakdowns, cases, attempts, unscored.

    `by_category`, `by_view` and `by_scenario` hold the Verified score of each group, `groups` both scores and
    the size; `official` every number that the official tool prints.
    """
    categories = _breakdown(scores.cases, lambda case: case.category)
    views = _breakdown(scores.cases, lambda case: case.view)
    scenarios = _breakdown(scores.cases, lambda case: case.scene)
    return {
        **_summary(scores.cases),
        "complete": scores.complete,
        "num_expected": scores.num_expected,
        "sub_scores": verified_sub_scores(scores.cases) if scores.cases else {},
        "official": official_aggregates(scores.cases),
        "fps": scores.fps,
        "dataset": {
            "tree": scores.tree,
            "num_cases": scores.num_dataset_cases,
            "revision_sha256": scores.revision,
        },
        "versions": {"opencv": cv2.__version__, "numpy": np.__version__},
        "by_category": _verified(categories),
        "by_view": _verified(views),
        "by_scenario": _verified(scenarios),
        "groups": {**categories, **views, **scenarios},
        "cases": [_case_record(case) for case in scores.cases],
        "attempts": [{**_case_record(case), "attempt": attempt} for attempt, case in scores.attempts],
        "unscored": [asdict(entry) for entry in scores.unscored],
        "notes": list(scores.notes),
        "changes": list(scores.changes),
        **({} if scores.takes is None else {"takes": scores.takes}),
    }


def print_table(document: dict[str, Any], console: Console) -> None:
    """All, categories and views; scenarios are in the document."""
    shown = {**document["by_category"], **document["by_view"]}
    title = f"Physics-IQ at {document['fps']:g} fps on {document['dataset']['tree']}"
    table = Table("cases of", "n", "Original", "Verified", title=title)
    groups = {name: group for name, group in document["groups"].items() if name in shown}
    for name, group in {"all": document, **groups}.items():
        scores = (group["physics_iq"], group["physics_iq_verified"])
        cells = ["-" if score is None else f"{score:.2f}" for score in scores]
        table.add_row(name, str(group["num_cases"]), *cells)
    console.print(table)
    lines = []
    if document["num_cases"] == 1:
        lines.append("from one scored case alone: it says nothing of other scenarios")
    if document["sub_scores"]:
        parts = [f"{name.replace('_', ' ')} {value:.2f}" for name, value in document["sub_scores"].items()]
        lines.append(f"Verified sub-scores: {', '.join(parts)}")
    for entry in document["unscored"]:
        take = "" if entry["attempt"] is None else f" take {entry['attempt']}"
        lines.append(f"unscored {entry['scenario_id']}{take}: {entry['reason']}")
    lines += [f"note: {note}" for note in document["notes"]]
    lines += [f"accepted: {change}" for change in document["changes"]]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _summary(cases: Sequence[Case]) -> dict[str, Any]:
    return {
        "physics_iq": original_score(cases),
        "physics_iq_verified": verified_score(cases),
        "num_cases": len(cases),
    }


def _breakdown(cases: Sequence[Case], key: Callable[[Case], str]) -> dict[str, dict[str, Any]]:
    """The official score functions on the cases of one group."""
    return {
        name: _summary([case for case in cases if key(case) == name]) for name in sorted(set(map(key, cases)))
    }


def _verified(groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: group["physics_iq_verified"] for name, group in groups.items()}


def _case_record(case: Case) -> dict[str, Any]:
    score = case_score(case.metrics)
    names = {
        "scenario_id": case.scenario_id,
        "scene": case.scene,
        "view": case.view,
        "category": case.category,
    }
    return {**names, "score": score.score, **asdict(score), "means": metric_means(case.metrics)}
