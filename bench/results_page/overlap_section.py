"""The section of two models on one GPU: at once in every way that was tried, against taking turns.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

TITLE = "What does it bring to run both at once?"
HEADER = (
    "way",
    "makespan s",
    "n",
    "against both alone",
    "against turns",
    "critic hidden %",
    "ms a denoise step",
    "against alone",
    "tokens/s of the critic",
    "same outcome",
    "SM MHz",
    "W",
)


def overlap(file: ResultFile) -> md.Section:
    """A row a way; those that could not be run with their reasons."""
    document = file.document
    ways = document["ways"]
    return md.Section(
        title=TITLE,
        headline=_headline(document["summary"]),
        body=md.paragraphs(
            _settings(document["settings"]),
            md.table(HEADER, [_row(way) for way in ways if "runs_s" in way]),
            _not_run(ways),
            md.bullets([_check(check) for check in document["checks"]]),
        ),
    )


def _headline(summary: Mapping[str, Any]) -> str:
    told = []
    if (gain := summary.get("four_step_over_slicing")) is not None:
        told.append(f"{md.times(gain)} as fast as in turns at step boundaries")
    if (hidden := summary.get("critic_share_hidden")) is not None:
        told.append(f"{md.whole(100 * hidden)} % of the critic's time hidden")
    if (best := summary.get("best_sharing")) is not None:
        told.append(f"best: {best}, {md.times(summary['best_sharing_over_slicing'])}")
    return "; ".join(told) or "not every way that this takes was measured"


def _settings(settings: Mapping[str, Any]) -> str:
    return (
        f"Models of size {settings['size']}, preset {settings['preset']}, "
        f"{counted(settings['steps'], 'denoise step')}, "
        f"{counted(settings['takes'], 'take')} and the replies of the row, {settings['reply_tokens']} "
        "tokens each, all there from the beginning."
    )


def _row(way: Mapping[str, Any]) -> list[str]:
    hidden = way.get("critic_share_hidden")
    return [
        f"{way['name']} ({counted(way['replies'], 'reply')})" if way["replies"] else way["name"],
        md.ms(way["makespan_s"]),
        str(len(way["runs_s"])),
        md.times(way.get("over_sum_of_both")),
        md.times(way.get("over_slicing")),
        md.whole(None if hidden is None else 100 * hidden),
        md.ms(way["step_ms"]),
        md.times(way["slowdown"]),
        md.whole(way["tokens_per_s"]),
        "yes" if way["equal"] else "**no**",
        *(md.whole(way["gpu"].get(name)) for name in ("sm_clock_mhz", "power_w")),
    ]


def _not_run(ways: list[Mapping[str, Any]]) -> str | None:
    lines = [f"{way['name']}: {way['reason']}" for way in ways if "reason" in way]
    return md.paragraphs("Not run, or not to the end:", md.bullets(lines)) if lines else None


def _check(check: Mapping[str, Any]) -> str:
    return f"{check['name']}: {'yes' if check['holds'] else '**no**'} ({check['found']})"
