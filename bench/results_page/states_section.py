"""The section on hidden states: whether the generator itself knows early which of its takes are better.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

FIGURES = {
    "rank_correlation": "Spearman within a scenario",
    "rank_correlation_within_prompt": "the same, of takes of one prompt",
    "auc": "AUC, above against below the scenario's median",
}


def state_fit(file: ResultFile) -> md.Section:
    document = file.document
    rows = [[label, *_beside_control(document[key])] for key, label in FIGURES.items()]
    sites = [
        [
            ", ".join(map(str, one["steps"])),
            ", ".join(map(str, one["layers"])),
            *_beside_control(one["rank_correlation"]),
        ]
        for one in document["by_site"]
    ]
    share = document["share_of_oracle"]
    gain = None if share["value"] is None else {"mean": share["value"], "ci95": share["ci95"]}
    points = share["points"]["chosen_minus_random"]
    return md.Section(
        title="Do a generator's own states say which take is better?",
        headline=f"chosen by them {md.interval(points, sign='+')} points above a random take, "
        f"{md.share(gain)} of the oracle's gain; Spearman {md.interval(document['rank_correlation'], 2)}",
        body=md.paragraphs(
            f"{counted(document['num_takes'], 'take')} of "
            f"{counted(document['num_scenes'], 'tuning scene')}. A probe of the hidden "
            "states at early steps is fitted to the case score, and measured on scenes left out of the fit. "
            "Permuted: the same on scores that were permuted within their scenario.",
            md.table(["figure", "probe", "permuted", "95 % of these below"], rows),
            md.table(
                ["steps", "layers", "Spearman", "permuted", "95 % of these below"], sites, num_text_columns=2
            ),
        ),
    )


def _beside_control(found: Mapping[str, Any]) -> list[str]:
    control = found["control"] or {}
    return [md.interval(found, 2), *(md.two(control.get(name)) for name in ("mean", "p95"))]
