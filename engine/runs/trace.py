"""When each lane worked: spans of single job steps.

Knows no model and no scheduler. Recording never waits for the device: on a GPU a span is a pair of events on
the lane's own stream, resolved once they have passed. Invariant: all times are seconds on one clock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

LANES = ("generate", "critique", "encode", "select")
PREFIX, RESULT, STORE = "prefix", "result", "store"
AROUND = (PREFIX, RESULT, STORE)
"""What the host does around the lanes: reads a prefix, takes over a result, writes what is finished."""
HOST_LANES = frozenset({"encode", "select", *AROUND})
_PENDING_EVENT_PAIRS = 1024
_Work = tuple[str, str, int, str, str, tuple[float, float]]
"""Lane, scenario, attempt, name, stage; when the host began and ended to launch."""


class Span(NamedTuple):
    """One step of one job; times in seconds since the recorder's origin. A tuple: a run makes millions."""

    lane: str
    scenario_id: str
    attempt: int
    name: str  # "plan", "generate", "critique", "encode", "select", "read"
    start_s: float
    end_s: float
    launch_s: float | None = None
    launched_s: float | None = None
    """When the host began and ended to enqueue it, where the times above are the device's."""
    stage: str = ""
    """Of the job, where it has several: "denoise step"."""


class HostRecorder:
    """Spans by the host's clock: right where a step is done when its launch returns (CPU, host lanes)."""

    def __init__(self, *, origin_s: float = 0.0) -> None:
        """The first span starts at `origin_s`: a resumed run goes on where its earlier trace ends."""
        self._zero_s = time.perf_counter() - origin_s
        self._spans: deque[Span] = deque()  # safe to append to from several threads

    def now_s(self) -> float:
        return time.perf_counter() - self._zero_s

    @contextmanager
    def span(self, lane: str, scenario_id: str, attempt: int, name: str, stage: str = "") -> Iterator[None]:
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
                    stage=stage,
                    start_s=start_s,
                    end_s=self.now_s(),
                )
            )

    def spans(self) -> tuple[Span, ...]:
        """By their starts; without what `settled` handed over."""
        return tuple(sorted(self._spans, key=lambda span: span.start_s))

    def settled(self) -> list[Span]:
        """Those that ended, which the recorder then forgets; never waits."""
        return [self._spans.popleft() for _ in range(len(self._spans))]


class CudaRecorder:
    """Device lanes by event pairs on the current stream, host lanes by the host's clock; NVTX ranges too."""

    def __init__(self, device: str = "cuda", *, origin_s: float = 0.0) -> None:
        import torch

        torch.cuda.synchronize(device)  # once, before the run: ties the device's clock to the host's
        self._range = torch.cuda.nvtx.range  # named as the spans, for whoever runs it under Nsight
        self._new_event = lambda: torch.cuda.Event(enable_timing=True)
        self._host = HostRecorder(origin_s=origin_s)
        self._origin_s = origin_s
        self._origin = self._new_event()
        self._origin.record()
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event, _Work]] = deque()
        self._resolved: list[Span] = []
        self._lock = threading.Lock()  # device lanes record on threads of their own

    @contextmanager
    def span(self, lane: str, scenario_id: str, attempt: int, name: str, stage: str = "") -> Iterator[None]:
        told = self._range(f"{lane}: {stage or name}")
        with told, self._host_or_device(lane, scenario_id, attempt, name, stage):
            yield

    @contextmanager
    def _host_or_device(
        self, lane: str, scenario_id: str, attempt: int, name: str, stage: str
    ) -> Iterator[None]:
        if lane in HOST_LANES:
            with self._host.span(lane, scenario_id, attempt, name, stage):
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
                self._pending.append((start, end, (lane, scenario_id, attempt, name, stage, launch)))
                while len(self._pending) > _PENDING_EVENT_PAIRS and self._pending[0][1].query():
                    self._resolve_oldest()

    def spans(self) -> tuple[Span, ...]:
        """Call after the run: waits for the events that have not passed yet. By their starts; without what
        `settled` handed over."""
        with self._lock:
            while self._pending:
                self._pending[0][1].synchronize()
                self._resolve_oldest()
        return tuple(sorted([*self._resolved, *self._host.spans()], key=lambda span: span.start_s))

    def settled(self) -> list[Span]:
        """Those that ended, as far as the device says so, which the recorder then forgets; never waits."""
        with self._lock:
            while self._pending and self._pending[0][1].query():
                self._resolve_oldest()
            found, self._resolved = self._resolved, []
        return [*found, *self._host.settled()]

    def _resolve_oldest(self) -> None:
        start, end, (lane, scenario_id, attempt, name, stage, launch) = self._pending.popleft()
        self._resolved.append(
            Span(
                lane=lane,
                scenario_id=scenario_id,
                attempt=attempt,
                name=name,
                stage=stage,
                start_s=self._origin_s + self._origin.elapsed_time(start) / 1000,
                end_s=self._origin_s + self._origin.elapsed_time(end) / 1000,
                launch_s=launch[0],
                launched_s=launch[1],
            )
        )
