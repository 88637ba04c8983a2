"""The rows that were measured as one document: medians, ratios, checks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.perf.document import Row, check, headed

KIND = "cosmos3"
OURS, LIBRARY, CRITIQUED = "ours", "library", "ours with a critique"
MOST_ERROR = 0.2
"""Of latents after two steps in 8 bits against the library's in bf16, relative."""
NOTES = (
    "random weights of the published sizes: speed and memory only",
    "a take reads its text and prefix clip, denoises, decodes and writes the mp4 of its own frames",
    "the library: diffusers' Cosmos3OmniPipeline as it comes, over the same files, in the same process",
    "with a critique: a take and the reasoner's critique of another one, begun at once; without mp4",
)


def joined(rows: Sequence[Row], settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    head = headed(KIND, command, settings, _checks(rows), summary=summary(rows))
    return head | {"notes": list(NOTES), "rows": list(rows)}


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds of a take by part and way, the library's over ours, and the worst error of a memory plan."""
    found: dict[str, float] = {}
    for part in dict.fromkeys(row["part"] for row in rows):
        seconds = {way: _median(rows, part, way) for way in (OURS, LIBRARY, CRITIQUED)}
        for way, name in ((OURS, "s"), (LIBRARY, "library_s"), (CRITIQUED, "with_critique_s")):
            if (value := seconds[way]) is not None:
                found[f"nano_{part}_{name}"] = value
        if (ours := seconds[OURS]) is not None and (library := seconds[LIBRARY]) is not None:
            found[f"nano_{part}_over_diffusers"] = library / ours
    errors = [abs(usage["error"]) for row in rows for usage in row.get("memory", ())]
    if errors:
        found["plan_error_worst"] = max(errors)
    return found


def _median(rows: Sequence[Row], part: str, way: str) -> float | None:
    seconds = [row["seconds"] for row in rows if (row["part"], row.get("way")) == (part, way)]
    return statistics.median(seconds) if seconds else None


def _checks(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        check(
            f"{row['part']}: latents as the library's, to {MOST_ERROR:g}",
            row["latent_error"] < MOST_ERROR,
            row["latent_error"],
        )
        for row in rows
        if "latent_error" in row
    ]
