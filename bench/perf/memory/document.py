"""The rows of all processes as one document: how far plans were off, and whether each run kept its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.perf.document import check, headed
from engine.machine.memory import CONTEXT_BYTES, read_size

KIND = "memory"
TOLERATED = 0.1
"""Error of a plan, as a share of the peak that was measured."""
TOLERATED_OVERHEAD = 0.01
RUN, REFUSED, FAILED = "run", "refused", "failed"


def joined(rows: Sequence[dict[str, Any]], settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    head = headed(KIND, command, settings, _checks(rows), summary=_summary(rows))
    return head | {"rows": list(rows)}


def plan_error(row: Mapping[str, Any]) -> float | None:
    """Of the planned peak against the measured one; above 0 it planned too much. None: not measured."""
    if not row.get("peak_allocated_bytes"):
        return None
    return float(row["planned_bytes"] / row["peak_allocated_bytes"] - 1)


def same_run(rows: Sequence[dict[str, Any]], config: str, vram: str) -> dict[str, Any] | None:
    """A run of the same settings that kept to a smaller budget; that without one is nobody's."""
    if not vram:
        return None
    for row in rows:
        smaller = bool(row["vram"]) and read_size(row["vram"]) < read_size(vram)
        if smaller and row["state"] == RUN and row.get("config") == config and inside(row):
            return row
    return None


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    errors = [error for row in rows if (error := plan_error(row)) is not None]
    overheads = [row["profile_overhead"] for row in rows if row.get("profile_overhead") is not None]
    summary: dict[str, float] = {
        "num_run": sum(row["state"] == RUN for row in rows),
        "num_refused": sum(row["state"] == REFUSED for row in rows),
    }
    if errors:
        summary["plan_error_worst"] = max(errors, key=abs)
    if overheads:
        summary["profile_overhead"] = max(overheads)
    return summary


def _checks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    summary = _summary(rows)
    beyond = [row["name"] for row in rows if not inside(row)]
    failed = [row["name"] for row in rows if row["state"] not in (RUN, REFUSED) or row.get("failures")]
    checks = [
        check("each run kept to its budget or was refused", not beyond, ", ".join(beyond) or "all"),
        check("no scenario failed", not failed, ", ".join(failed) or "none"),
    ]
    if "plan_error_worst" in summary:
        worst = summary["plan_error_worst"]
        holds = abs(worst) <= TOLERATED
        checks.append(check(f"plans are within {TOLERATED:.0%} of the peak", holds, f"worst {worst:+.1%}"))
    if "profile_overhead" in summary:
        overhead = summary["profile_overhead"]
        holds = overhead < TOLERATED_OVERHEAD
        checks.append(check(f"spans cost less than {TOLERATED_OVERHEAD:.0%}", holds, f"{overhead:.3%}"))
    return checks


def inside(row: Mapping[str, Any]) -> bool:
    """The allocator's memory, and what a process takes beside it, within the budget."""
    if not row["vram"] or not row.get("peak_reserved_bytes"):
        return True
    return bool(row["peak_reserved_bytes"] + CONTEXT_BYTES <= read_size(row["vram"]))
