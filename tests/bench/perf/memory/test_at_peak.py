"""The allocator's history, summed at its peak by the lines of ours that asked."""

from __future__ import annotations

from typing import Any

import pytest

from bench.perf.memory.at_peak import BEFORE, NOT_OURS, at_peak, recorded


def event(action: str, address: int, size: int, *frames: str) -> dict[str, Any]:
    """As torch writes them; a frame is "path:line name"."""
    told = [
        {"filename": frame.partition(":")[0], "line": int(frame.partition(":")[2].split()[0]), "name": "f"}
        for frame in frames
    ]
    return {"action": action, "addr": address, "size": size, "frames": told}


LIBRARY = "/lib/site-packages/engine/torch.py:9 x"
OURS = "/home/a/engine/autoencoder/vae.py:70 x"
CALLER = "/home/a/engine/loop/lanes.py:300 x"


def test_what_was_there_at_the_peak_is_summed_by_its_line() -> None:
    events = [
        event("alloc", 1, 100, LIBRARY, OURS, CALLER),
        event("alloc", 2, 50, LIBRARY),
        event("free_requested", 9, 30),  # it was there before
        event("alloc", 3, 200, OURS),
        event("segment_alloc", 4, 1000, OURS),  # not memory that was handed out
        event("free_requested", 3, 200),
        event("free_completed", 3, 200),
        event("alloc", 5, 60, CALLER),
    ]
    assert at_peak(events, start_bytes=500) == [
        (BEFORE, 470),
        ("engine/autoencoder/vae.py:70 f", 300),
        (NOT_OURS, 50),
    ]


def test_a_run_that_only_frees_has_its_peak_at_the_beginning() -> None:
    assert at_peak([event("free_requested", 1, 10)], start_bytes=10) == [(BEFORE, 10)]


def test_nothing_is_recorded_unless_it_is_wanted() -> None:
    with recorded(False) as found:
        pass
    assert found == []


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    import torch

    with recorded(True) as found:
        kept = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
        del kept
    assert any(size >= 64 << 20 for _, size in found)
