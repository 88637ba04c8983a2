"""The rows that were measured as one document: medians, ratios, checks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.perf.document import Row, check, headed

KIND = "cosmos3"
OURS, LIBRARY, CRITIQUED = "ours", "library", "ours with a critique"
MP4 = "mp4"
"""The stage of a take that writes it."""
MOST_ERROR = 0.2
"""Of latents after two steps in 8 bits against the library's in bf16, relative."""
PUBLISHED_S = {"480p": 67.0, "720p": 239.6}
"""Of a take of Nano by the library as it comes, from text alone: 189 frames, 35 steps, one H200
(NVIDIA/cosmos, inference_benchmarks.md)."""
NOTES = (
    "random weights of the published sizes: speed and memory only",
    "a take reads its text and prefix clip, denoises, decodes and writes the mp4 of its own frames",
    "the library: diffusers' Cosmos3OmniPipeline as it comes, over the same files, in the same process",
    "with a critique: a take and the reasoner's critique of another one, begun at once; without mp4, as is "
    "the take alone of which critique_adds is a share",
    "frames: until the frames are there. The mp4 is of noise here, which takes the encoder seconds and no "
    "other take's time in a run; published seconds are taken to have none",
    "over_diffusers: of takes with their mp4; frames_over_diffusers: until the frames are there",
    "library_over_published: of its frames, over the seconds that NVIDIA publishes of that pipeline, which "
    "had no prefix",
)


def joined(rows: Sequence[Row], settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    head = headed(KIND, command, settings, _checks(rows), summary=summary(rows, settings))
    return head | {"notes": list(NOTES), "rows": list(rows)}


def summary(rows: Sequence[Row], settings: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a take by part and way, with its mp4 and until its frames are there; the library's over ours
    and over those published; what a critique adds to ours, as a share; the worst error of a memory plan."""
    found: dict[str, float] = {}
    published = PUBLISHED_S if (settings["size"], settings["steps"]) == ("nano", 35) else {}
    for part in dict.fromkeys(row["part"] for row in rows):
        seconds = {way: _median(rows, part, way) for way in (OURS, LIBRARY, CRITIQUED)}
        for way, name in ((OURS, "s"), (LIBRARY, "library_s"), (CRITIQUED, "with_critique_s")):
            if (value := seconds[way]) is not None:
                found[f"nano_{part}_{name}"] = value
        alone, library = (_median(rows, part, way, without=MP4) for way in (OURS, LIBRARY))
        for frames, name in ((alone, "frames_s"), (library, "library_frames_s")):
            if frames is not None:
                found[f"nano_{part}_{name}"] = frames
        if (ours := seconds[OURS]) is not None and (theirs := seconds[LIBRARY]) is not None:
            found[f"nano_{part}_over_diffusers"] = theirs / ours
        if alone is not None and library is not None:
            found[f"nano_{part}_frames_over_diffusers"] = library / alone
        if alone is not None and (critiqued := seconds[CRITIQUED]) is not None:
            found[f"nano_{part}_critique_adds"] = critiqued / alone - 1
        if library is not None and part in published:
            found[f"nano_{part}_library_over_published"] = library / published[part]
    errors = [abs(usage["error"]) for row in rows for usage in row.get("memory", ())]
    if errors:
        found["plan_error_worst"] = max(errors)
    return found


def _median(rows: Sequence[Row], part: str, way: str, *, without: str = "") -> float | None:
    """Of the seconds of a way; `without` a stage, where one is named."""
    found = [row for row in rows if (row["part"], row.get("way")) == (part, way)]
    seconds = [row["seconds"] - row.get("stages", {}).get(without, 0.0) for row in found]
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
