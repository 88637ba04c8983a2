"""The section on scouts that are finished in another way than from their noise, and on smaller looks.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted


def scout_finishes(file: ResultFile) -> md.Section:
    document = file.document
    best = max(document["finishes"], key=lambda row: row["minus_plain"]["mean"])
    rows = [
        [
            _look(row),
            _way(row),
            md.count(row["num_takes"]),
            md.interval(row["plain"]),
            md.interval(row["minus_plain"], digits=2, sign="+"),
            md.interval(row["of_best_look"], digits=2, sign="+"),
            *(md.interval(row["follows"][name], digits=2) for name in ("plain", "finish")),
        ]
        for row in document["finishes"]
    ]
    header = ["look", "finish", "takes", "from the noise", "difference", "of the best look"]
    header += ["follows its look: from the noise", "so finished"]
    ranks = [
        [size, f"{row['steps']}", row["by"], str(row["n"]), md.interval(row, digits=2, sign="+")]
        for size, found in document["looks"].items()
        for row in found
    ]
    return md.Section(
        title="Are scouts better finished in another way?",
        headline=f"of {counted(len(rows), 'way')} on {counted(document['num_scenes'], 'tuning scene')} the "
        f"best: {_way(best)} "
        f"behind {_look(best)} steps, {md.interval(best['minus_plain'], digits=2, sign='+')} points against "
        "the take from the same noise",
        body=md.paragraphs(
            f"{counted(document['num_scenes'], 'tuning scene')}.",
            md.table(header, rows, num_text_columns=2),
            "How whole looks rank like their takes, by their size:",
            md.table(
                ["sides of a take", "steps", "ranked by", "n", "Spearman with its take"],
                ranks,
                num_text_columns=3,
            ),
        ),
    )


def _look(row: Mapping[str, Any]) -> str:
    return f"{row['steps']} {row['form']}"


def _way(row: Mapping[str, Any]) -> str:
    if row["kept"]:
        return f"motion kept, {md.percent(row['kept'])} of the steps"
    return f"first steps again {row['again']}x"
