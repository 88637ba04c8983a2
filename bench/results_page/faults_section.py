"""The section of the faults: what each cost, how it was answered, and what an hour of runs left behind.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultError, ResultFile

COSTS = ("lost", "duplicated", "corrupt", "unequal")
COUNTS = ("tried", "kills", *COSTS, "unclear")


def faults(file: ResultFile) -> md.Section:
    """A row a fault, and the soak where there was one. ResultError where the sums are not the rows'."""
    document = file.document
    summary, rows, soak = document["summary"], document["rows"], document["soak"]
    for name in ("kills", *COSTS):
        if (total := sum(row[name] for row in rows)) != summary[name]:
            raise ResultError(
                f"{file.path}: the summary has {summary[name]} {name}, its rows have {total}",
                fix="write the table again: python -m faults table",
            )
    told = ", ".join(f"{summary[name]} {name}" for name in COSTS)
    return md.Section(
        title="What does a fault cost a run?",
        headline=f"{md.count(summary['kills'])} kills, {md.count(sum(row['tried'] for row in rows))} "
        f"faults in all: {told}",
        body=md.paragraphs(
            md.table(["fault", *COUNTS, "most often answered with"], [_row(row) for row in rows]),
            _examples(rows),
            None if soak is None else _soak(soak),
        ),
    )


def _row(row: Mapping[str, Any]) -> list[str]:
    return [row["fault"], *(str(row[name]) for name in COUNTS), _code(row["message"])]


def _examples(rows: Sequence[Mapping[str, Any]]) -> str | None:
    costly = [row for row in rows if any(row[cost] for cost in (*COSTS, "unclear"))]
    lines = [f"{row['fault']}: {_code(example)}" for row in costly for example in row["examples"][:1]]
    return (
        md.paragraphs("An example of each row that is not all zeros:", md.bullets(lines)) if lines else None
    )


def _soak(soak: Mapping[str, Any]) -> str:
    cells = [
        [
            entry["name"],
            *(md.count(entry[place]) for place in ("start", "middle", "end")),
            _slope(entry["per_hour"], entry["standard_error"]),
        ]
        for entry in soak["measures"]
    ]
    return md.paragraphs(
        f"Soak: {soak['minutes']:.0f} minutes, {md.count(soak['rounds'])} rounds of run, interrupt, resume "
        f"and report in one process, {md.count(soak['interrupts'])} interrupts, {len(soak['failed'])} rounds "
        f"that failed. Start and slope are those "
        f"from minute {soak['fitted_from_minute']:.0f} on, when everything has been used once.",
        md.table(["measure", "start", "middle", "end", "slope an hour"], cells),
    )


def _slope(value: float | None, error: float | None) -> str:
    return md.NONE if value is None or error is None else f"{value:+z.1f} ± {error:.1f}"


def _code(text: str) -> str:
    """As code, which Markdown leaves as it is; its own marks and line ends would end it."""
    line = " ".join(text.replace("`", "'").split())
    return f"`{line[:160]}`" if line else ""
