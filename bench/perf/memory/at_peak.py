"""Whose memory there was at the peak of a run: the allocator's own history, summed by the line that asked.

For finding out why a plan was off; recording costs some percent of the time, so that it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

HOUSES = ("/engine/", "/kernels/", "/export/", "/bench/")
MOST_EVENTS = 1_000_000
NOT_OURS = "elsewhere"
BEFORE = "before the run"
SHOWN = 15


@contextmanager
def recorded(wanted: bool) -> Iterator[list[tuple[str, int]]]:
    """Fills the list when the block ends: (place, bytes), the largest first; empty where not wanted."""
    import torch

    found: list[tuple[str, int]] = []
    if not wanted or not torch.cuda.is_available():
        yield found
        return
    start = torch.cuda.memory_allocated()
    torch.cuda.memory._record_memory_history(max_entries=MOST_EVENTS, stacks="python")
    try:
        yield found
        traces = torch.cuda.memory._snapshot()["device_traces"]
        found += at_peak(traces[torch.cuda.current_device()], start)
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


def at_peak(events: Sequence[Mapping[str, Any]], start_bytes: int = 0) -> list[tuple[str, int]]:
    """What was allocated when most was, by place, the largest first; `start_bytes` were there before.

    events: as torch has them in "device_traces": actions "alloc", "free_requested" and others, addresses,
    sizes, frames from the innermost out.
    """
    peak, peak_index, now = start_bytes, 0, start_bytes
    for index, event in enumerate(events, start=1):
        now += _change(event)
        if now > peak:
            peak, peak_index = now, index
    live: dict[int, tuple[str, int]] = {}
    before = start_bytes
    for event in events[:peak_index]:
        if event["action"] == "alloc":
            live[event["addr"]] = (_place(event.get("frames", ())), event["size"])
        elif event["action"] == "free_requested" and live.pop(event["addr"], None) is None:
            before -= event["size"]
    sums: Counter[str] = Counter({BEFORE: before})
    for place, size in live.values():
        sums[place] += size
    return sums.most_common(SHOWN)


def _change(event: Mapping[str, Any]) -> int:
    sizes = {"alloc": event["size"], "free_requested": -event["size"]}
    return int(sizes.get(event["action"], 0))


def _place(frames: Iterable[Mapping[str, Any]]) -> str:
    """The innermost line of ours, without the place of the checkout."""
    for frame in frames:
        name = str(frame["filename"])
        house = next((house for house in HOUSES if house in name), None)
        if house is not None and "site-packages" not in name:
            return f"{house[1:]}{name.rpartition(house)[2]}:{frame['line']} {frame['name']}"
    return NOT_OURS
