"""The rows of all processes as one document: plans and peaks, ratios to the pipelines, what a LoRA costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.perf.document import Row, check, headed
from bench.perf.memory.document import REFUSED, RUN, inside, plan_error
from bench.perf.models.rows import BESIDE, BUDGETED, LORA, ROWS

KIND = "models"
TOLERATED = 0.1
"""Error of a plan, as a share of the peak that was measured."""
MOST_DIFFERENCE = 0.05
"""Of latents after two steps of preset exact from the pipeline's, relative: both branches of guidance in one
forward or in two add up their 16 bits otherwise."""
LORA_COSTS = 0.03
"""Of a denoise step, at most; noise of few steps."""
NOTES = (
    "random weights of the published sizes, text encoder of the right width but few layers: speed and memory",
    "under a budget: one scenario of the product with plan and critique, of few steps, whose peak stands "
    "beside its plan; then a take alone, with the critic resident",
    "a clip: the measured take, and for each step that its whole schedule has more the median of its kind "
    "(8-bit or exact attention); a step: the mean of the whole schedule; without mp4",
    "the library: diffusers' pipeline over the modules of preset exact, uncompiled, in the same process in "
    "turn; of Wan2.2-5B, which keeps one clean frame, with the latents of the whole prefix clean",
    "difference: of latents after two steps, with preset exact and with the timed preset",
)


def joined(rows: Sequence[Row], settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    """In the order of what is measured, whichever process was first."""
    places = {row.name: place for place, row in enumerate(ROWS)}
    rows = sorted(rows, key=lambda row: places.get(row["name"], len(places)))
    head = headed(KIND, command, settings, list(_checks(rows)), summary=summary(rows))
    return head | {"notes": list(NOTES), "rows": rows}


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """The worst error of a plan; by model seconds of a step and a clip, the pipeline's over ours, and a step
    with a merged LoRA over one without."""
    budgeted = [row for row in rows if row["stage"] == BUDGETED]
    found: dict[str, float] = {
        "num_run": sum(row["state"] == RUN for row in budgeted),
        "num_refused": sum(row["state"] == REFUSED for row in budgeted),
    }
    if errors := [error for row in budgeted if (error := plan_error(row)) is not None]:
        found["plan_error_worst"] = max(errors, key=abs)
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and row["state"] == RUN]
        found |= {f"{model}_{name}": value for name, value in _of(own)}
    return found


def _of(rows: Sequence[Row]) -> Iterator[tuple[str, float]]:
    rounds = [row for row in rows if row["stage"] == BESIDE and "ours" in row]
    for what in ("step_s", "clip_s") if rounds else ():
        ours, library = (statistics.median(row[way][what] for row in rounds) for way in ("ours", "library"))
        yield what, ours
        yield f"library_{what}", library
        yield f"{what.removesuffix('_s')}_over_diffusers", library / ours
    for row in rows:
        if row["stage"] == LORA:
            yield "lora_step_ratio", row["step_ratio"]
        if "latent_error" in row:
            yield "latent_error", row["latent_error"]


def _checks(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    beyond = [row["name"] for row in rows if not inside(row)]
    yield check("each run kept to its budget or was refused", not beyond, ", ".join(beyond) or "all")
    failed = [row["name"] for row in rows if row["state"] not in (RUN, REFUSED) or row.get("failures")]
    yield check("nothing failed", not failed, ", ".join(failed) or "none")
    if (worst := summary(rows).get("plan_error_worst")) is not None:
        name = f"plans are within {TOLERATED:.0%} of the peak"
        yield check(name, abs(worst) <= TOLERATED, f"worst {worst:+.1%}")
    for row in rows:
        if "latent_error" in row:
            error, name = row["latent_error"], f"{row['model']}: latents as the pipeline's"
            yield check(f"{name}, to {MOST_DIFFERENCE:g}", error < MOST_DIFFERENCE, f"{error:.4f}")
        if "step_ratio" in row:
            ratio, name = row["step_ratio"], f"{row['model']}: a merged LoRA costs a step no time"
            holds = ratio < 1 + LORA_COSTS and row["latent_change"] > 0
            yield check(
                name, holds, f"{ratio:.3f} of a step without; latents change by {row['latent_change']:.3f}"
            )
