"""The section of what published models need of a card. Measures nothing: every number comes from the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile

TITLE = "What do published models need of a card?"
ALONE = "one lane at a time"


def needs(file: ResultFile) -> md.Section:
    """A row a critic and card, with all that was changed to make it fit."""
    document = file.document
    settings = document["settings"]
    size = f"{settings['width']}x{settings['height']}"
    table = [
        [
            row["critic"],
            row["card"],
            str(row["gib"]),
            "–" if row["planned_gib"] is None else f"{row['planned_gib']:.1f}",
            "; ".join(_changes(row)) or ("does not fit" if row["planned_gib"] is None else "nothing"),
        ]
        for row in document["needs"]
    ]
    return md.Section(
        title=TITLE,
        headline=f"{settings['generator']} with {len({row['critic'] for row in document['needs']})} critics",
        body=md.paragraphs(
            f"Planned by `retake plan` for {settings['generator']} at {size} with preset "
            f"{settings['preset']}, by the headers of files without weights; nothing ran.",
            md.table(["critic", "card", "GiB", "planned GiB", "changed to fit"], table, num_text_columns=2),
        ),
    )


def _changes(row: Mapping[str, Any]) -> list[str]:
    if row["planned_gib"] is None:
        return []
    return [*row["changed"], *([] if row["overlap"] else [ALONE])]
