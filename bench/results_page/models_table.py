"""Published models for the front page: what they are, where to get them, and what they need of a card.

Measures nothing: sizes and licences are those that `retake` tells before a download, memory is of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.page import Page
from engine.build.hub import HOSTED

NAME = "model_needs"


def models(page: Page) -> str:
    """Files by name: what they are, their licence, how to get them, and their published score."""
    listed = [
        [
            f"[{name}](https://huggingface.co/{name})",
            one.what,
            one.licence,
            f"`hf download {name}`, {one.about_gb:g} GB",
            one.published or "–",
        ]
        for name, one in HOSTED.items()
    ]
    header = ["model", "what", "licence", "how to get it", "published Verified score"]
    return md.paragraphs(md.table(header, listed, num_text_columns=5), _by_card(page))


def _by_card(page: Page) -> str:
    document = page.document(NAME)
    rows = document["needs"]
    cards = {row["card"]: row["gib"] for row in rows}
    by_critic: dict[str, dict[str, str]] = {}
    for row in rows:
        by_critic.setdefault(row["critic"], {})[row["card"]] = _cell(row)
    header = [f"GiB planned for {document['settings']['generator']} and"]
    header += [f"{card}, {gib} GiB" for card, gib in cards.items()]
    table = [[critic, *(cells[card] for card in cards)] for critic, cells in by_critic.items()]
    note = (
        f"In brackets how many settings `retake` changes to make it fit ({page.link(NAME, 'which')}); * with "
        "`--no-overlap`; no: does not fit. "
        "Licences and sizes are those of the models' cards, no published score is one of Retake."
    )
    return md.paragraphs(md.table(header, table, num_text_columns=1), note)


def _cell(row: Mapping[str, Any]) -> str:
    if row["planned_gib"] is None:
        return "no"
    changes = f" ({len(row['changed'])})" if row["changed"] else ""
    return f"{row['planned_gib']:.1f}{changes}{'' if row['overlap'] else ' *'}"
