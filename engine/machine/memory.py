"""The memory plan: solved before a weight is read, compared with what was measured when the run has ended.

Knows no model, only footprints in bytes. Invariant: a plan that exists fits its budget; "out of memory after
40 minutes" becomes "does not fit" after one second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from engine.errors import ConfigError, DoesNotFit
from engine.types import Footprint

GIB = 2**30
RESERVE_SHARE, MOST_RESERVE_BYTES = 0.1, 3 * GIB // 2
"""Of the budget, for workspaces of GEMMs and convolutions and the rounding of the allocator, neither of which
grows with the card."""
CONTEXT_BYTES = 3 * GIB // 4
"""What a process takes of a GPU beside torch's allocator: the driver's context and the code of kernels."""
SLOTS, GRAPHS, PEAK = "slots", "CUDA graphs", "peak"
LATER = (SLOTS, GRAPHS)
"""Of what a component holds, what it takes with its first job."""
UNITS = {"GIB": GIB, "GB": 10**9, "MIB": 2**20, "MB": 10**6, "G": GIB, "M": 2**20, "": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Footprints that fit `budget_bytes` together. With `overlap` the parts work at the same time."""

    budget_bytes: int
    reserve_bytes: int
    parts: Mapping[str, Footprint]
    overlap: bool

    @classmethod
    def of(
        cls,
        budget_bytes: int,
        parts: Mapping[str, Footprint],
        *,
        overlap: bool,
        reserve_share: float = RESERVE_SHARE,
    ) -> Self:
        """The plan, whether or not it fits."""
        assert 0 <= reserve_share < 1, f"reserve_share {reserve_share} is not in [0, 1)"
        reserve_bytes = min(round(budget_bytes * reserve_share), MOST_RESERVE_BYTES)
        return cls(budget_bytes=budget_bytes, reserve_bytes=reserve_bytes, parts=dict(parts), overlap=overlap)

    @property
    def fits(self) -> bool:
        return self.required_bytes <= self.budget_bytes

    @property
    def held_bytes(self) -> int:
        return sum(part.held_bytes for part in self.parts.values())

    @property
    def working_bytes(self) -> int:
        """All that run at once: the sum with overlap, without it the largest."""
        sizes = [part.working_bytes for part in self.parts.values()]
        return sum(sizes) if self.overlap else max(sizes, default=0)

    @property
    def peak_bytes(self) -> int:
        """What the run is planned to hold at its peak; the reserve is not part of it."""
        return self.held_bytes + self.working_bytes

    @property
    def required_bytes(self) -> int:
        return self.peak_bytes + self.reserve_bytes

    def refused(self, fix: str) -> DoesNotFit:
        """The error of a plan that does not fit."""
        return DoesNotFit(
            f"the models need {in_gib(self.required_bytes)} of {in_gib(self.budget_bytes)} of memory\n"
            + _as_text(self.table()),
            fix=fix,
        )

    def table(self) -> list[tuple[str, str, str]]:
        """(part, held, while it works) with a header and the closing sums, as text in GiB."""
        rows = [("part", "held", "while it works")]
        for name, part in self.parts.items():
            rows += [(f"{name}: {what}", in_gib(size), "") for what, size in part.held.items()]
            rows += [(f"{name}: {what}", "", in_gib(size)) for what, size in part.working.items()]
        together = "they overlap" if self.overlap else "one at a time"
        rows.append(("together", in_gib(self.held_bytes), f"{in_gib(self.working_bytes)} ({together})"))
        rows.append(("reserve", in_gib(self.reserve_bytes), ""))
        rows.append(("required", in_gib(self.required_bytes), f"of {in_gib(self.budget_bytes)}"))
        return rows

    def document(self) -> dict[str, Any]:
        """As JSON values, in bytes."""
        return {
            "budget_bytes": self.budget_bytes,
            "reserve_bytes": self.reserve_bytes,
            "overlap": self.overlap,
            "parts": {
                name: {"held": dict(part.held), "working": dict(part.working)}
                for name, part in self.parts.items()
            },
            "peak_bytes": self.peak_bytes,
            "required_bytes": self.required_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was planned for a part of the run and the most that was measured of it."""

    part: str
    planned_bytes: int
    measured_bytes: int

    @property
    def error(self) -> float:
        """Of the plan, as a share of what was measured; above 0 it planned too much."""
        return (
            (self.planned_bytes - self.measured_bytes) / self.measured_bytes if self.measured_bytes else 0.0
        )

    @property
    def over(self) -> bool:
        return self.measured_bytes > self.planned_bytes

    def document(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "planned_bytes": self.planned_bytes,
            "measured_bytes": self.measured_bytes,
            "error": self.error,
        }


def check(plan: MemoryPlan, measured: Mapping[str, int]) -> tuple[Usage, ...]:
    """Plan against measurement, part by part: bytes of what `planned_parts` names, as far as known."""
    planned = dict(planned_parts(plan))
    assert measured.keys() <= planned.keys(), f"planned {sorted(planned)}, measured {sorted(measured)}"
    return tuple(
        Usage(part=name, planned_bytes=planned[name], measured_bytes=size) for name, size in measured.items()
    )


def planned_parts(plan: MemoryPlan) -> Iterator[tuple[str, int]]:
    """What can be measured apart: the models of each component once they are loaded, what its lane takes
    while it works, the graphs of all, and everything at the peak."""
    for name, part in plan.parts.items():
        yield f"{name} loaded", sum(size for what, size in part.held.items() if what not in LATER)
        yield f"{name} lane", part.working_bytes + part.held.get(SLOTS, 0)
    yield GRAPHS, sum(part.held.get(GRAPHS, 0) for part in plan.parts.values())
    yield PEAK, plan.peak_bytes


def read_size(text: str) -> int:
    """Bytes of "24GiB", "24 GB" or "24G" (GiB). ConfigError for anything else."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS or not float(match[1]) > 0:
        raise ConfigError(f"{text!r} is not an amount of memory", fix="give one such as 24GiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def device_budget(device: str, vram: str = "") -> int:
    """Bytes that models may take: what is free on the GPU for "cuda" or "cuda:1", of the host's memory for
    "cpu". `vram`: at most so much, with all that the process takes of the device. ConfigError: that leaves
    nothing."""
    budget = _free_bytes(device)
    return budget if not vram else min(budget, allowed_bytes(device, vram))


def allowed_bytes(device: str, vram: str) -> int:
    """What `vram` leaves for torch's allocator. ConfigError: nothing."""
    allowed = read_size(vram) - (CONTEXT_BYTES if device.startswith("cuda") else 0)
    if allowed <= 0:
        raise ConfigError(
            f"memory.vram is {vram}, of which a process on a GPU takes {in_gib(CONTEXT_BYTES)} before a model"
            " is loaded",
            fix="give at least 2GiB",
        )
    return allowed


def enforce_budget(device: str, vram: str) -> None:
    """From now on torch's allocator refuses what would exceed `vram`, after giving back what it keeps."""
    if not vram or not device.startswith("cuda"):
        return
    import torch

    share = allowed_bytes(device, vram) / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share), torch.device(device).index)


def _free_bytes(device: str) -> int:
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


def in_gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f} GiB"


def _as_text(rows: list[tuple[str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {a.ljust(widths[0])}  {b.rjust(widths[1])}  {c}".rstrip() for a, b, c in rows)
