"""The rows that were measured as one document: medians, ratios, checks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KIND, SCHEMA = "cosmos3", 1
OURS, LIBRARY, CRITIQUED = "ours", "library", "ours with a critique"
MOST_ERROR = 0.2
"""Of latents after two steps in 8 bits against the library's in bf16, relative."""
NOTES = (
    "random weights of the published sizes: speed and memory only",
    "a take reads its text and prefix clip, denoises, decodes and writes the mp4 of its own frames",
    "the library: diffusers' Cosmos3OmniPipeline as it comes, over the same files, in the same process",
    "with a critique: a take and the reasoner's critique of another one, begun at once; without mp4",
)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Those of an unfinished or finished document; none where there is no file."""
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.is_file() else []


def unfinished(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"schema": SCHEMA, "kind": KIND, "rows": list(rows)}


def joined(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    from engine.runs.manifest import collect
    from kernels import timing

    found = list(_checks(rows))
    return {
        **unfinished(rows),
        "command": command,
        "manifest": collect({}, {}, seeds={}, argv=[]) | {"timing": timing.machine()},
        "settings": dict(settings),
        "summary": summary(rows),
        "checks": found,
        "all_checks_hold": all(check["holds"] for check in found),
        "notes": list(NOTES),
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
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


def _median(rows: Sequence[Mapping[str, Any]], part: str, way: str) -> float | None:
    seconds = [row["seconds"] for row in rows if (row["part"], row.get("way")) == (part, way)]
    return statistics.median(seconds) if seconds else None


def _checks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{row['part']}: latents as the library's, to {MOST_ERROR:g}",
            "holds": bool(row["latent_error"] < MOST_ERROR),
            "found": row["latent_error"],
        }
        for row in rows
        if "latent_error" in row
    ]
