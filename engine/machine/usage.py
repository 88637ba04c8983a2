"""What a run took of a GPU's memory, by whose it is, as torch's allocator knows it once the run has ended.

The allocator keeps what each stream freed for that stream, so that what a lane has is the most that it took
at once, to the rounding of the allocator. Never waits for the device and costs a run nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.machine.memory import GRAPHS, PEAK

LANE_OF = {"generator": "generate", "critic": "critique"}
"""Component of a plan -> the lane in which it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """In bytes. `parts` as `memory.planned_parts` names them; `reserved` by stream or pool."""

    parts: Mapping[str, int]
    reserved: Mapping[str, int]
    peak_allocated: int
    peak_reserved: int


def by_owner(segments: Iterable[Mapping[str, Any]], lanes: Mapping[int, str]) -> dict[str, int]:
    """Bytes of the allocator's segments (torch.cuda.memory_snapshot) by lane; those of graphs; of the stream
    on which models are loaded; of all others. `lanes`: address of a CUDA stream -> lane."""
    found: Counter[str] = Counter()
    for segment in segments:
        pool = tuple(segment.get("segment_pool_id", (0, 0)))
        if pool != (0, 0):
            owner = GRAPHS
        elif segment["stream"] == 0:
            owner = "models"
        else:
            owner = lanes.get(segment["stream"], "other streams")
        found[owner] += int(segment["total_size"])
    return dict(found)


def measured(
    loaded: Mapping[str, int],
    segments: Iterable[Mapping[str, Any]],
    lanes: Mapping[int, str],
    *,
    peak_allocated: int,
    peak_reserved: int,
) -> Measured:
    """`loaded`: bytes of each component's models, as they were when it was loaded."""
    reserved = by_owner(segments, lanes)
    parts = {f"{name} loaded": size for name, size in loaded.items()}
    parts |= {f"{name} lane": reserved[lane] for name, lane in LANE_OF.items() if lane in reserved}
    if GRAPHS in reserved:
        parts[GRAPHS] = reserved[GRAPHS]
    return Measured(
        parts=parts | {PEAK: peak_allocated},
        reserved=reserved,
        peak_allocated=peak_allocated,
        peak_reserved=peak_reserved,
    )


def of_run(loaded: Mapping[str, int], streams: Mapping[str, Any], device: str) -> Measured:
    """Since the process began, or the peaks were reset. `streams`: by lane."""
    import torch

    return measured(
        loaded,
        torch.cuda.memory_snapshot(),
        {stream.cuda_stream: lane for lane, stream in streams.items()},
        peak_allocated=torch.cuda.max_memory_allocated(device),
        peak_reserved=torch.cuda.max_memory_reserved(device),
    )


def device_memory(device: str) -> dict[str, int]:
    """Of this process now and at its peak, in bytes; nothing for the CPU. Never waits for the device."""
    if not device.startswith("cuda"):
        return {}
    import torch

    found = torch.cuda.memory_stats(device)
    return {
        "allocated": int(found["allocated_bytes.all.current"]),
        "peak_allocated": int(found["allocated_bytes.all.peak"]),
        "reserved": int(found["reserved_bytes.all.current"]),
    }


def allocated_bytes(device: str) -> int:
    """Now, of a GPU; 0 for the CPU, whose memory nobody counts."""
    if not device.startswith("cuda"):
        return 0
    import torch

    return int(torch.cuda.memory_allocated(device))
