"""Published models for the front page: what they are, where to get them, and what they need of a card.

Measures nothing: sizes and licences are those that `retake` tells before a download, memory and seconds are
of files. What is not known is a dash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page import scenario_seconds
from bench.results_page.page import Page
from bench.results_page.scenario_seconds import NEEDS, Seconds
from engine.build.hub import HOSTED


def models(page: Page) -> str:
    """By name: what they are, licence, how to get them, published score, seconds; and memory by card."""
    found = {name: scenario_seconds.of(page, name) for name in HOSTED}
    seconds = {name: one for name, one in found.items() if one is not None}
    return md.paragraphs(_listed(seconds), scenario_seconds.note(page, seconds), *_by_card(page))


def _listed(seconds: Mapping[str, Seconds]) -> str:
    rows = [
        [
            f"[{name}](https://huggingface.co/{name})",
            one.what,
            one.licence,
            f"`hf download {name}`",
            md.NONE if one.about_gb is None else f"{one.about_gb:g}",
            one.published or md.NONE,
            seconds[name].cell if name in seconds else md.NONE,
        ]
        for name, one in HOSTED.items()
    ]
    header = ["model", "what", "licence", "how to get it", "GB", "published Verified score", "s a scenario"]
    return md.table(header, rows, num_text_columns=4)


def _by_card(page: Page) -> tuple[str, str]:
    rows = page.document(NEEDS)["needs"]
    cards = {row["card"]: row["gib"] for row in rows}
    by_pair: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        by_pair.setdefault((row["generator"], row["critic"]), {})[row["card"]] = _cell(row)
    header = ["GiB planned for", "and", *(f"{card}, {gib} GiB" for card, gib in cards.items())]
    table = [[*pair, *(cells[card] for card in cards)] for pair, cells in by_pair.items()]
    note = (
        f"In brackets how many settings `retake` changes to make it fit ({page.link(NEEDS, 'which')}); * "
        "with `--no-overlap`; no: does not fit. Licences and sizes are those that publishers state, no "
        "published score is one of Retake."
    )
    return md.table(header, table, num_text_columns=2), note


def _cell(row: Mapping[str, Any]) -> str:
    if row["planned_gib"] is None:
        return "no"
    changes = f" ({len(row['changed'])})" if row["changed"] else ""
    return f"{row['planned_gib']:.1f}{changes}{'' if row['overlap'] else ' *'}"
