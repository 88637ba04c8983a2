"""The section of memory: plan, peak and seconds a take under budgets, preset by preset.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

TITLE = "How much memory does a run take, and how well is it planned?"
HEADER = (
    "preset",
    "lanes",
    "budget",
    "planned GiB",
    "peak GiB",
    "error %",
    "reserved GiB",
    "s a take",
    "changed to fit",
)


def memory(file: ResultFile) -> md.Section:
    """A row a combination; those that were refused say so."""
    document = file.document
    settings = document["settings"]
    return md.Section(
        title=TITLE,
        headline=_headline(document["summary"]),
        body=md.paragraphs(
            f"Models of size {settings['size']}, {counted(settings['steps'], 'denoise step')}, one take a "
            "scenario; the "
            "peak is what torch's allocator handed out at once, reserved what it held of the card. Seconds "
            "are of two scenarios that overlap, or of one, with whatever had to be compiled anew.",
            md.table(HEADER, [_row(row) for row in document["rows"]]),
            md.bullets(
                [
                    f"{'holds' if one['holds'] else 'FAILS'}: {one['name']}: {one['found']}"
                    for one in document["checks"]
                ]
            ),
        ),
    )


def _headline(summary: Mapping[str, Any]) -> str:
    told = [f"{counted(summary['num_run'], 'run')}"]
    if summary["num_refused"]:
        told.append(f"{summary['num_refused']} refused before loading")
    if (worst := summary.get("plan_error_worst")) is not None:
        told.append(f"plans at most {abs(100 * worst):.1f} % off")
    if (overhead := summary.get("profile_overhead")) is not None:
        told.append(f"spans cost {100 * overhead:.2f} % at most")
    return "; ".join(told)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    named = (row["preset"], "overlap" if row["overlap"] else "in turn", row["vram"] or "none")
    if row["state"] != "run":
        return (*named, "refused", *[""] * 5)
    peak, reserved = row.get("peak_allocated_bytes"), row.get("peak_reserved_bytes")
    error = "" if not peak else f"{100 * (row['planned_bytes'] / peak - 1):+.1f}"
    changed = "; ".join(line.partition(" saves ")[0] for line in row["changed"])
    sizes = (md.gib(row["planned_bytes"]), "" if not peak else md.gib(peak))
    return (
        *named,
        *sizes,
        error,
        "" if not reserved else md.gib(reserved),
        f"{row['seconds_per_take']:.1f}",
        changed,
    )
