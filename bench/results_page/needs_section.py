"""The section of what published models need of a card. Measures nothing: every number comes from the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

TITLE = "What do published models need of a card?"
ALONE = "one lane at a time"


def needs(file: ResultFile) -> md.Section:
    """A row a generator, critic and card, with all that was changed to make it fit."""
    document = file.document
    settings = document["settings"]
    size = f"{settings['width']}x{settings['height']}"
    table = [
        [
            row["generator"],
            row["critic"],
            row["card"],
            str(row["gib"]),
            "–" if row["planned_gib"] is None else f"{row['planned_gib']:.1f}",
            "; ".join(_changes(row)) or ("does not fit" if row["planned_gib"] is None else "nothing"),
        ]
        for row in document["needs"]
    ]
    generators, critics = ({row[part] for row in document["needs"]} for part in ("generator", "critic"))
    header = ["generator", "critic", "card", "GiB", "planned GiB", "changed to fit"]
    return md.Section(
        title=TITLE,
        headline=f"{counted(len(generators), 'generator')}, {counted(len(critics), 'critic')}",
        body=md.paragraphs(
            f"Planned by `retake plan` for takes of {size} with preset {settings['preset']}, by the headers "
            "of files without weights; nothing ran.",
            md.table(header, table, num_text_columns=3),
        ),
    )


def _changes(row: Mapping[str, Any]) -> list[str]:
    if row["planned_gib"] is None:
        return []
    return [*row["changed"], *([] if row["overlap"] else [ALONE])]
