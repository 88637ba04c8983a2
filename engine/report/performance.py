"""The part of the page that says what a run cost: seconds, the device's seconds, points for them, memory.

A pure function of what was counted while the trace was read and of the manifest; texts are escaped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from markupsafe import Markup

from engine.report.charts import Estimate
from engine.report.templates import templates
from engine.runs.profile import Tally
from engine.runs.timeline import Totals

USED = "memory_used"
"""Key of the manifest, as `engine.build.used_memory` writes it."""
TEMPLATE = "performance.html.j2"


def performance(
    tally: Tally | None,
    totals: Totals | None,
    gain: Estimate | None,
    manifest: Mapping[str, Any],
    unfinished: Collection[str] = (),
) -> Markup | None:
    """None without a trace. `gain`: of the chosen takes over the first ones, in the page's measure.

    `unfinished`: ids of scenarios that have not ended; what they took so far counts with those that have.
    """
    if tally is None or totals is None or not tally.scenarios:
        return None
    num_ended = tally.num_ended(unfinished)
    used = [entry for entry in manifest.get(USED, ()) if isinstance(entry, Mapping) and "parts" in entry]
    text = (
        templates("report")
        .get_template(TEMPLATE)
        .render(
            rows=tally.latencies(),
            seconds=totals.wall_s / num_ended if num_ended else None,
            device_seconds=tally.gpu_s / num_ended if num_ended else None,
            points=points_per_minute(gain, tally.gpu_s),
            memory=used[-1]["parts"] if used else planned_parts(manifest),
            relieved=[line for entry in manifest.get(USED, ()) for line in entry.get("relieved", ())],
        )
    )
    return Markup(text)  # nosec B704 # the template escapes


def points_per_minute(gain: Estimate | None, device_s: float) -> float | None:
    """What the loop gained in all for a minute of the device; None where nothing was scored."""
    if gain is None or not gain.n or not device_s:
        return None
    return gain.mean * gain.n / (device_s / 60)


def planned_parts(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a run that measured nothing, as on a CPU, what was planned; nothing of manifests before that."""
    plan = manifest.get("memory")
    if not isinstance(plan, Mapping):
        return []
    found = [
        {"part": f"{name}: {what}", "planned_bytes": size, "measured_bytes": None, "error": None}
        for name, part in plan["parts"].items()
        for what, size in (part["held"] | part["working"]).items()
    ]
    peak = {"part": "peak", "planned_bytes": plan["peak_bytes"], "measured_bytes": None, "error": None}
    return [*found, peak]
