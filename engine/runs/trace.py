"""When each lane worked: spans of single job steps, a timeline picture, totals.

Knows no model and no scheduler. Recording never waits for the device: on a GPU a span is a pair of events on
the lane's own stream, resolved once they have passed. Invariant: all times are seconds on one clock.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LANES = ("generate", "critique", "encode", "select")
HOST_LANES = frozenset({"encode", "select"})
PALETTE = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f")
_PENDING_EVENT_PAIRS = 1024
_Work = tuple[str, str, int, str, tuple[float, float]]
"""Lane, scenario, attempt, name; when the host began and ended to launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One step of one job; times in seconds since the recorder's origin."""

    lane: str
    scenario_id: str
    attempt: int
    name: str  # "plan", "generate", "critique", "encode", "select", "read"
    start_s: float
    end_s: float
    launch_s: float | None = None
    launched_s: float | None = None
    """When the host began and ended to enqueue it, where the times above are the device's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """`overlap_share` is the part of the busy time in which at least two lanes worked at once."""

    wall_s: float
    busy_s: dict[str, float]  # by lane
    overlap_share: float


class HostRecorder:
    """Spans by the host's clock: right where a step is done when its launch returns (CPU, host lanes)."""

    def __init__(self, *, origin_s: float = 0.0) -> None:
        """The first span starts at `origin_s`: a resumed run goes on where its earlier trace ends."""
        self._zero_s = time.perf_counter() - origin_s
        self._spans: list[Span] = []
        self._num_told = 0

    def now_s(self) -> float:
        return time.perf_counter() - self._zero_s

    @contextmanager
    def span(self, lane: str, scenario_id: str, attempt: int, name: str) -> Iterator[None]:
        start_s = self.now_s()
        try:
            yield
        finally:
            self._spans.append(
                Span(
                    lane=lane,
                    scenario_id=scenario_id,
                    attempt=attempt,
                    name=name,
                    start_s=start_s,
                    end_s=self.now_s(),
                )
            )

    def spans(self) -> tuple[Span, ...]:
        return tuple(sorted(self._spans, key=lambda span: span.start_s))

    def settled(self) -> list[Span]:
        """Those that ended since the last call; never waits."""
        found = self._spans[self._num_told :]
        self._num_told += len(found)
        return found


class CudaRecorder:
    """Device lanes by event pairs on the current stream, host lanes by the host's clock."""

    def __init__(self, device: str = "cuda", *, origin_s: float = 0.0) -> None:
        import torch

        torch.cuda.synchronize(device)  # once, before the run: ties the device's clock to the host's
        self._new_event = lambda: torch.cuda.Event(enable_timing=True)
        self._host = HostRecorder(origin_s=origin_s)
        self._origin_s = origin_s
        self._origin = self._new_event()
        self._origin.record()
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event, _Work]] = deque()
        self._resolved: list[Span] = []
        self._num_told = 0
        self._lock = threading.Lock()  # device lanes record on threads of their own

    @contextmanager
    def span(self, lane: str, scenario_id: str, attempt: int, name: str) -> Iterator[None]:
        if lane in HOST_LANES:
            with self._host.span(lane, scenario_id, attempt, name):
                yield
            return
        start, end = self._new_event(), self._new_event()
        launch_s = self._host.now_s()
        start.record()
        try:
            yield
        finally:
            end.record()
            launch = launch_s, self._host.now_s()
            with self._lock:
                self._pending.append((start, end, (lane, scenario_id, attempt, name, launch)))
                while len(self._pending) > _PENDING_EVENT_PAIRS and self._pending[0][1].query():
                    self._resolve_oldest()

    def spans(self) -> tuple[Span, ...]:
        """Call after the run: waits for the events that have not passed yet."""
        with self._lock:
            while self._pending:
                self._pending[0][1].synchronize()
                self._resolve_oldest()
        return tuple(sorted([*self._resolved, *self._host.spans()], key=lambda span: span.start_s))

    def settled(self) -> list[Span]:
        """Those that ended since the last call, as far as the device says so; never waits for it."""
        with self._lock:
            while self._pending and self._pending[0][1].query():
                self._resolve_oldest()
            found = self._resolved[self._num_told :]
            self._num_told += len(found)
        return [*found, *self._host.settled()]

    def _resolve_oldest(self) -> None:
        start, end, (lane, scenario_id, attempt, name, launch) = self._pending.popleft()
        self._resolved.append(
            Span(
                lane=lane,
                scenario_id=scenario_id,
                attempt=attempt,
                name=name,
                start_s=self._origin_s + self._origin.elapsed_time(start) / 1000,
                end_s=self._origin_s + self._origin.elapsed_time(end) / 1000,
                launch_s=launch[0],
                launched_s=launch[1],
            )
        )


def totals(spans: Sequence[Span]) -> Totals:
    """Wall time from the first start to the last end, busy time per lane, and the overlap share."""
    if not spans:
        return Totals(wall_s=0.0, busy_s={}, overlap_share=0.0)
    by_lane = {lane: _union([s for s in spans if s.lane == lane]) for lane in lanes_of(spans)}
    busy_s = {lane: sum(end - start for start, end in intervals) for lane, intervals in by_lane.items()}
    # Sweep over all edges: +1 where a lane becomes busy, -1 where it ends.
    edges = sorted(
        edge for intervals in by_lane.values() for start, end in intervals for edge in ((start, 1), (end, -1))
    )
    any_s = two_s = 0.0
    num_busy = 0
    for (time_s, change), (next_s, _) in itertools.pairwise(edges):
        num_busy += change
        any_s += (next_s - time_s) * (num_busy >= 1)
        two_s += (next_s - time_s) * (num_busy >= 2)
    return Totals(
        wall_s=max(s.end_s for s in spans) - min(s.start_s for s in spans),
        busy_s=busy_s,
        overlap_share=two_s / any_s if any_s else 0.0,
    )


def timeline_svg(spans: Sequence[Span], width_px: int) -> str:
    """The lanes as rows of coloured bars, one colour per scenario, in a self-contained SVG of `width_px`."""
    label_px, row_px, bar_px, axis_px = 70, 30, 22, 24
    lanes = lanes_of(spans)
    start_s = min((s.start_s for s in spans), default=0.0)
    seconds = max(max((s.end_s for s in spans), default=0.0) - start_s, 1e-9)
    scale = (width_px - label_px - 10) / seconds  # px per second
    height_px = row_px * len(lanes) + axis_px
    names = dict.fromkeys(s.scenario_id for s in spans)
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="timeline of the lanes" '
        f'width="{width_px}" height="{height_px}" viewBox="0 0 {width_px} {height_px}" '
        f'font-family="sans-serif" font-size="11" fill="currentColor">'
    ]
    for row, lane in enumerate(lanes):
        parts.append(f'<text x="0" y="{row * row_px + 18}">{escape(lane)}</text>')
        for bar in _merge([s for s in spans if s.lane == lane], gap_s=1 / scale):
            what = f"{bar.scenario_id} take {bar.attempt} {bar.name}: {bar.end_s - bar.start_s:.2f} s"
            parts.append(
                f'<rect x="{label_px + (bar.start_s - start_s) * scale:.1f}" y="{row * row_px + 4}" '
                f'width="{max((bar.end_s - bar.start_s) * scale, 0.5):.1f}" height="{bar_px}" '
                f'fill="{colours[bar.scenario_id]}" fill-opacity="{_OPACITY.get(bar.name, 1.0)}">'
                f"<title>{escape(what)}</title></rect>"
            )
    for tick_s in _ticks(seconds):
        x = label_px + tick_s * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{row_px * len(lanes)}" stroke="currentColor" '
            f'stroke-opacity="0.2"/><text x="{x:.1f}" y="{height_px - 8}" text-anchor="middle">'
            f"{tick_s:g} s</text>"
        )
    return "".join([*parts, "</svg>"])


_OPACITY = {"plan": 0.5, "read": 0.5}


def lanes_of(spans: Iterable[Span]) -> list[str]:
    present = {span.lane for span in spans}
    return [*(lane for lane in LANES if lane in present), *sorted(present.difference(LANES))]


def _union(spans: Iterable[Span]) -> list[tuple[float, float]]:
    """Disjoint (start, end) in seconds, in order; the encode lane's threads may run at once."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted((span.start_s, span.end_s) for span in spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _merge(spans: Iterable[Span], gap_s: float) -> list[Span]:
    """Steps of one job closer than `gap_s` as one bar: a VLM's tokens are far more than there are pixels."""
    jobs: dict[tuple[str, int, str], list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_s):
        bars = jobs[span.scenario_id, span.attempt, span.name]
        if bars and span.start_s - bars[-1].end_s < gap_s:
            last = bars.pop()
            span = replace(last, end_s=max(last.end_s, span.end_s))
        bars.append(span)
    return sorted((bar for bars in jobs.values() for bar in bars), key=lambda bar: bar.start_s)


def _ticks(seconds: float) -> list[float]:
    """At most ten round times from 0 to `seconds`."""
    magnitudes = (base * 10.0**power for power in itertools.count(-4) for base in (1, 2, 5))
    step = next(size for size in magnitudes if seconds / size <= 9)
    return [round(i * step, 6) for i in range(int(seconds / step) + 1)]
