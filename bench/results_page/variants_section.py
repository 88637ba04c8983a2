"""The section of a loop with one setting changed: what the change is worth, and how many takes it costs.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

HEADER = (
    "setting",
    "n",
    "score",
    "of the base",
    "difference",
    "takes a scenario",
)


def loop_variants(file: ResultFile) -> md.Section:
    document = file.document
    rows, base = document["rows"], document["base"]
    categories = sorted({name for row in rows for name in row["by_category"]})
    by_category = [
        [row["name"], *(md.interval(row["by_category"].get(name), digits=1, sign="+") for name in categories)]
        for row in rows
    ]
    scenes = ", ".join(counted(number, f"{part} scene") for part, number in base["scenes"].items())
    begins = document["manifest"]["config"]["loop"]["first_prompt"]
    told = [f"`{row['name']}` {md.interval(row['difference'], digits=2, sign='+')}" for row in rows]
    return md.Section(
        title="What is another setting of the loop worth?",
        headline=f"{scenes}: {', '.join(told)} points",
        body=md.paragraphs(
            f"Against the same loop without it, on {counted(base['num_scenarios'], 'scenario')} "
            f"({scenes}). First prompt: {begins}; {base['takes_a_scenario']:.2f} takes a scenario.",
            md.table(HEADER, [_row(row) for row in rows]),
            md.table(["setting", *categories], by_category) if categories else None,
            md.bullets(list(_apart(rows))) or None,
        ),
    )


def _apart(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        if row["left_out"]:
            left_out = counted(len(row["left_out"]), "scenario is", "scenarios are")
            yield f"{row['name']}: {left_out} left out, without a score on one side"
        for line in row["also_differs"]:
            yield f"{row['name']}: not only the setting differs: {line}"


def _row(row: Mapping[str, Any]) -> list[str]:
    return [
        row["name"],
        md.count(row["num_scenarios"]),
        md.interval(row["score"]),
        md.interval(row["base_score"]),
        md.interval(row["difference"], digits=2, sign="+"),
        f"{row['takes_a_scenario']:.2f}",
    ]
