"""The section of video models beside a critic: budgets, the library's pipelines, a merged LoRA.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile

TITLE = "How fast are the video models beside a 4-bit critic, and in how much memory?"
UNDER = ("model", "budget", "planned GiB", "peak GiB", "error %", "s a step", "s a clip", "changed to fit")
BESIDE = ("model", "way", "s a step", "s a clip", "steps a clip", "takes", "latents differ")
MERGED = ("model", "s a step", "with a LoRA", "ratio", "steps each")
Row = Mapping[str, Any]


def models(file: ResultFile) -> md.Section:
    """Tables of what was measured; what was not has no row."""
    document = file.document
    rows, settings = document["rows"], document["settings"]
    under = [_under(row) for row in rows if row["stage"] == "budget"]
    beside = list(_beside(rows))
    merged = [_merged(row) for row in rows if row["stage"] == "lora"]
    return md.Section(
        title=TITLE,
        headline=_headline(document["summary"], rows),
        body=md.paragraphs(
            f"Size {settings['size']}, preset {settings['preset']}. A clip has the steps of the model's own "
            "schedule, of which some were timed.",
            md.table(UNDER, under) if under else None,
            md.table(BESIDE, beside) if beside else None,
            md.table(MERGED, merged) if merged else None,
            md.bullets(
                [
                    f"{'holds' if one['holds'] else 'FAILS'}: {one['name']}: {one['found']}"
                    for one in document["checks"]
                ]
            ),
        ),
    )


def _headline(summary: Mapping[str, float], rows: Sequence[Row]) -> str:
    told = [
        f"{model}: {summary[f'{model}_clip_s']:.1f} s a clip, {ratio:.2f}x diffusers"
        for model in dict.fromkeys(row["model"] for row in rows)
        if (ratio := summary.get(f"{model}_clip_over_diffusers")) is not None
    ]
    if (worst := summary.get("plan_error_worst")) is not None:
        told.append(f"memory planned at most {abs(100 * worst):.1f} % off")
    if summary["num_refused"]:
        told.append(f"{summary['num_refused']} refused before loading")
    return "; ".join(told)


def _under(row: Row) -> tuple[str, ...]:
    named = row["model"], row["vram"]
    if row["state"] != "run":
        return (*named, *[""] * 5, f"{row['state']}: {row['why']}")
    peak = row.get("peak_allocated_bytes")
    return (
        *named,
        md.gib(row["planned_bytes"]),
        md.gib(peak) if peak else "",
        f"{100 * (row['planned_bytes'] / peak - 1):+.1f}" if peak else "",
        f"{row['step_s']:.3f}",
        f"{row['clip_s']:.1f}",
        "; ".join(line.partition(" saves ")[0] for line in row["changed"]),
    )


def _beside(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    beside = [row for row in rows if row["stage"] == "diffusers"]
    for model in dict.fromkeys(row["model"] for row in beside):
        own = [row for row in beside if row["model"] == model]
        told = [f"{row['state']}: {row['why']}" for row in own if "why" in row]
        if told:
            yield model, *[""] * 5, told[0]
        rounds = [row for row in own if "ours" in row]
        errors = next((row for row in own if "latent_error" in row), {})
        by_way = {"ours": errors.get("latent_error_of_timed"), "library": None}
        for way, error in by_way.items() if rounds else ():
            takes = [row[way] for row in rounds]
            seconds = (statistics.median(take[name] for take in takes) for name in ("step_s", "clip_s"))
            told_s = (f"{value:.{digits}f}" for value, digits in zip(seconds, (3, 1), strict=True))
            differs = "" if error is None else f"{error:.4f} (exact: {errors['latent_error']:.4f})"
            yield model, way, *told_s, str(takes[0]["clip_steps"]), str(len(takes)), differs


def _merged(row: Row) -> tuple[str, ...]:
    if row["state"] != "run":
        return row["model"], "", "", "", f"{row['state']}: {row['why']}"
    plain, merged = (row["step_s"][way] for way in ("plain", "merged"))
    steps = len(row["steps_s"]["plain"])
    return row["model"], f"{plain:.3f}", f"{merged:.3f}", f"{row['step_ratio']:.3f}", str(steps)
