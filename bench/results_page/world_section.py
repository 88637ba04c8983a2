"""The section on a world of scenes: is there room for a loop to improve, at each share of broken footage.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

PROMPTS = ("brief", "plan")
FIGURES = {
    "first_take": "first take",
    "spread": "spread within a scene",
    "oracle_minus_mean": "oracle above the mean",
    "minus_brief": "above the brief text",
}
GROUPS = {
    "by_category": "category",
    "by_simple": "simple or not",
    "by_failure": "failure type",
    "by_kind": "kind",
}
REACHED = {True: "reached", False: "missed"}


def world(file: ResultFile) -> md.Section:
    document = file.document
    settings, shares = document["settings"], document["shares"]
    chosen = shares[f"{settings['chosen_share']:g}"]
    brief, plan = chosen["brief"], chosen["plan"]
    rows = [
        [share, prompt, *(md.interval(found[prompt].get(key)) for key in FIGURES)]
        for share, found in shares.items()
        for prompt in PROMPTS
    ]
    aims = [
        [share, *(REACHED[found["reached"][key]] for key in ("first_take", "spread", "oracle_minus_mean"))]
        for share, found in shares.items()
    ]
    bounds = ", ".join(f"{name} {md.interval(chosen[name])}" for name in ("frozen", "extrapolated"))
    words = (
        f"{counted(settings['count'], 'tuning scene')} of the world `{settings['world']}`, "
        f"{counted(settings['takes'], 'take')} of "
        f"each prompt, no loop and no critic; the plan is the true one. Without any model: {bounds}. "
        f"{settings['rule']}"
    )
    return md.Section(
        title="Is there room to improve?",
        headline=f"first take {md.interval(brief['first_take'])}, the true plan in its prompt "
        f"{md.interval(plan['minus_brief'], sign='+')} points",
        body=md.paragraphs(
            words,
            md.table(["broken footage", "prompt", *FIGURES.values()], rows, num_text_columns=2),
            md.table(["broken footage", "first take 40 to 65", "spread 8", "oracle 10"], aims),
            *(_groups(chosen, key, name) for key, name in GROUPS.items()),
        ),
    )


def _groups(chosen: Mapping[str, Any], key: str, name: str) -> str | None:
    rows = [
        [
            label,
            str(found["n"]),
            md.interval(found["brief"]["first_take"]),
            *(md.interval(found["brief"][figure]) for figure in ("spread", "oracle_minus_mean")),
            md.interval(found["plan"]["minus_brief"], sign="+"),
        ]
        for label, found in chosen.get(key, {}).items()
    ]
    header = [name, "n", "first take", "spread", "oracle", "plan above brief"]
    return md.table(header, rows) if rows else None
