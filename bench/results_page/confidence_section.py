"""The section on plans: how often a fact is true by how sure the critic was, and what a threshold keeps.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted


def plan_confidence(file: ResultFile) -> md.Section:
    document = file.document
    kinds, thresholds = document["by_kind"], document["by_threshold"]
    ranges = sorted({(one["from"], one["to"]) for found in kinds.values() for one in found["bins"]})
    stated = []
    for name, found in kinds.items():
        filled = {(one["from"], one["to"]): one for one in found["bins"]}
        cells = [_share(filled[key]) if key in filled else md.NONE for key in ranges]
        stated.append([name, str(found["num"]), _share(found), *cells])
    kept = [
        [
            f"{one['sure']:g}",
            *(_kept(one["by_kind"][name]) for name in kinds),
            md.percent(one["held"]["mean"]),
        ]
        for one in thresholds
    ]
    name, last = next(iter(kinds)), thresholds[-1]
    surest = md.percent(last["by_kind"][name]["true"])
    scenes = (
        f"{counted(document['num_scenes'], 'tuning scene')} of the world `{document['settings']['world']}`"
    )
    return md.Section(
        title="How far can a plan of the critic be believed?",
        headline=f"{name}s true: {md.percent(kinds[name]['true'])} of all, {surest} of those that it is "
        f"at least {last['sure']:g} sure of",
        body=md.paragraphs(
            f"Plans of {scenes}, no takes; {document['unreadable']} could not be read. The share that is "
            "true, by stated probability:",
            md.table(["fact", "n", "true", *(f"{low:g} to {high:g}" for low, high in ranges)], stated),
            "What stays with `--sure`, and how much of it is true; the last column is the share of the truth "
            "that a plan then holds:",
            md.table(["sure", *kinds, "truth held"], kept),
        ),
    )


def _share(found: Mapping[str, Any]) -> str:
    """Of a kind of fact or of a bin."""
    low, high = found["ci95"]
    return f"{md.percent(found['true'])} ({100 * low:.0f} to {100 * high:.0f})"


def _kept(found: Mapping[str, Any]) -> str:
    return f"{md.percent(found['stays'])} stay, {md.percent(found['true'])} true"
