"""Whose the allocator's memory is, and how that is put beside a plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.machine import usage
from engine.machine.memory import GRAPHS, PEAK
from engine.machine.usage import by_owner, measured


def segment(stream: int, size: int, pool: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """As `torch.cuda.memory_snapshot` has them, of what is read here."""
    return {"stream": stream, "total_size": size, "segment_pool_id": pool}


SEGMENTS = [segment(0, 10), segment(0, 5), segment(7, 3), segment(8, 2), segment(9, 1), segment(9, 4, (0, 2))]
LANES = {7: "generate", 8: "critique"}


def test_memory_is_that_of_its_stream_but_for_pools_of_graphs() -> None:
    found = by_owner(SEGMENTS, LANES)
    assert found == {"models": 15, "generate": 3, "critique": 2, "other streams": 1, GRAPHS: 4}


def test_what_was_not_used_is_not_measured() -> None:
    found = measured({"generator": 9, "critic": 6}, SEGMENTS[:3], LANES, peak_allocated=17, peak_reserved=18)
    assert dict(found.parts) == {"generator loaded": 9, "critic loaded": 6, "generator lane": 3, PEAK: 17}
    assert found.peak_reserved == 18


@pytest.mark.gpu
def test_of_a_gpu() -> None:
    import torch

    from engine.machine.usage import of_run

    streams = {lane: torch.cuda.Stream() for lane in ("generate", "critique")}
    kept = []
    for size, stream in zip((64, 32), streams.values(), strict=True):
        with torch.cuda.stream(stream):
            kept.append(torch.empty(size << 20, dtype=torch.uint8, device="cuda"))
    found = of_run({"generator": 1}, streams, "cuda")
    assert found.parts["generator lane"] >= 64 << 20 and found.parts["critic lane"] >= 32 << 20
    assert found.parts[PEAK] >= 96 << 20


def test_memory_of_a_device_now_is_the_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("allocated_bytes.all.current", "allocated_bytes.all.peak", "reserved_bytes.all.current")
    stats = {name: size for size, name in enumerate(names, start=5)}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    assert usage.device_memory("cuda") == {"allocated": 5, "peak_allocated": 6, "reserved": 7}
    assert usage.device_memory("cpu") == {}
