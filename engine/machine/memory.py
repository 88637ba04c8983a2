"""The memory plan: solved before a weight is read, compared with what was measured after the warm-up.

Knows no model, only footprints in bytes. Invariant: a plan that exists fits its budget; "out of memory after
40 minutes" becomes "does not fit" after one second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from engine.errors import DoesNotFit
from engine.types import Footprint

RESERVE_FRACTION = 0.1
"""Of the budget, kept for the CUDA context, library workspaces and the allocator's fragmentation."""

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Footprints that fit `budget_bytes` together. With `overlap` the parts work at the same time."""

    budget_bytes: int
    reserve_bytes: int
    parts: Mapping[str, Footprint]
    overlap: bool

    @classmethod
    def solve(
        cls,
        budget_bytes: int,
        parts: Mapping[str, Footprint],
        *,
        overlap: bool,
        reserve_fraction: float = RESERVE_FRACTION,
    ) -> Self:
        """The plan, or DoesNotFit with the table of its parts and what to do about it."""
        assert 0 <= reserve_fraction < 1, f"reserve_fraction {reserve_fraction} is not in [0, 1)"
        plan = cls(
            budget_bytes=budget_bytes,
            reserve_bytes=round(budget_bytes * reserve_fraction),
            parts=dict(parts),
            overlap=overlap,
        )
        if plan.required_bytes > budget_bytes:
            raise DoesNotFit(
                f"the models need {_gib(plan.required_bytes)} of {_gib(budget_bytes)} free memory\n"
                + _as_text(plan.table()),
                fix=_fix(plan),
            )
        return plan

    @property
    def weights_bytes(self) -> int:
        return sum(part.weights_bytes for part in self.parts.values())

    @property
    def activation_bytes(self) -> int:
        """All that run at once: the sum with overlap, without it the largest."""
        sizes = [part.activation_bytes for part in self.parts.values()]
        return sum(sizes) if self.overlap else max(sizes, default=0)

    @property
    def required_bytes(self) -> int:
        return self.weights_bytes + self.activation_bytes + self.reserve_bytes

    def table(self) -> list[tuple[str, str, str]]:
        """(part, weights, activations) with a header and the closing sums, as text in GiB."""
        rows = [("part", "weights", "activations")]
        rows += [(name, _gib(p.weights_bytes), _gib(p.activation_bytes)) for name, p in self.parts.items()]
        together = "sum: they overlap" if self.overlap else "largest: one at a time"
        rows.append(("together", _gib(self.weights_bytes), f"{_gib(self.activation_bytes)} ({together})"))
        rows.append(("reserve", _gib(self.reserve_bytes), ""))
        rows.append(("required", _gib(self.required_bytes), f"of {_gib(self.budget_bytes)}"))
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One part after the warm-up: what was planned for it and the peak that was measured."""

    part: str
    planned_bytes: int
    measured_bytes: int

    @property
    def over(self) -> bool:
        return self.measured_bytes > self.planned_bytes


def check(plan: MemoryPlan, measured: Mapping[str, Footprint]) -> tuple[Usage, ...]:
    """Plan against measured peak, part by part, for the manifest; measured parts must be the planned ones.

    A part may exceed its own share as long as the whole still fits; otherwise DoesNotFit, now and not later.
    """
    assert measured.keys() == plan.parts.keys(), f"planned {sorted(plan.parts)}, measured {sorted(measured)}"
    MemoryPlan.solve(plan.budget_bytes, measured, overlap=plan.overlap, reserve_fraction=0.0)
    return tuple(
        Usage(
            part=name,
            planned_bytes=planned.weights_bytes + planned.activation_bytes,
            measured_bytes=measured[name].weights_bytes + measured[name].activation_bytes,
        )
        for name, planned in plan.parts.items()
    )


def device_budget(device: str) -> int:
    """Bytes that are free now: on the GPU for "cuda" or "cuda:1", of the host's memory for "cpu"."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return min(_host_available_bytes(), _container_available_bytes())


def _host_available_bytes() -> int:
    """Linux counts what dropping caches would free; elsewhere only unused pages are known."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_available_bytes(group: Path = Path("/sys/fs/cgroup")) -> int:
    """What the limit of a container (cgroup v2) leaves; unlimited where there is none."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except FileNotFoundError:
        return 2**63
    if limit == "max":
        return 2**63
    return int(limit) - used + int(stat.get("inactive_file", 0))


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f} GiB"


def _as_text(rows: list[tuple[str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {a.ljust(widths[0])}  {b.rjust(widths[1])}  {c}".rstrip() for a, b, c in rows)


def _fix(plan: MemoryPlan) -> str:
    steps = ["choose smaller models with --generator or --critic"]
    if plan.overlap:
        steps.append("run one lane at a time with --no-overlap")
    steps.append('quantize the critic (critic.quantization = "nf4")')
    return "; or ".join(steps)
