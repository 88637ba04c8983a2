"""What workers send, put where it belongs: into the store, the trace, the log and on the screen.

Knows no process and hands out nothing.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

from engine.build.used_memory import USED
from engine.cluster.messages import (
    Ended,
    Judged,
    MemoryUsed,
    Message,
    Opened,
    Planned,
    Ranked,
    Scouted,
    Step,
    Taken,
    Worked,
)
from engine.protocols import Display
from engine.runs.folder import place_of_scout, writing
from engine.runs.manifest import MANIFEST, read_manifest, write_manifest
from engine.runs.states import put_states
from engine.runs.store import RunStore
from engine.runs.trace import AROUND, Span
from engine.runs.watched import Watched
from engine.types import Outcome
from kernels.files import whole_file


class Spans:
    """Of all workers on one clock, for `kept_trace`; of several, a lane has its worker's number."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    def add(self, span: Span) -> None:
        self._spans.append(span)

    def settled(self) -> list[Span]:
        found, self._spans = self._spans, []
        return found

    def spans(self) -> list[Span]:
        return self.settled()


class Desk:
    """One for the run. `sink` and `display` are told what is safe."""

    def __init__(self, store: RunStore, display: Display, *, origin_s: float, num_workers: int) -> None:
        """origin_s: when the first span of this process starts."""
        self.sink = Watched(store, display)
        self.spans = Spans()
        self._store, self._display = store, display
        self._zero_s = time.monotonic() - origin_s
        self._has_several = num_workers > 1
        self._shift_s: dict[int, float] = {}

    def begins(self, worker: int) -> None:
        """Its clock starts now."""
        self._shift_s[worker] = time.monotonic() - self._zero_s

    def take(self, worker: int, message: Message | None) -> None:
        """RunLost where the run folder takes no more writes."""
        match message:
            case Planned():
                self.sink.plan(message.scenario_id, message.reply)
            case Scouted():
                self._store_scout(message)
            case Ranked():
                self.sink.ranked(message.scenario_id, message.scouts)
            case Taken():
                self._store_take(message)
            case Judged():
                self.sink.judged(message.scenario_id, message.attempt)
            case Ended():
                self.outcome(message.outcome)
            case Opened():
                self._store.opened(message.paths)
            case Worked():
                for span in message.spans:
                    self.spans.add(self._on_our_clock(worker, span))
            case MemoryUsed():
                path = self._store.folder / MANIFEST
                facts = read_manifest(path)
                entries = [{"worker": worker, **entry} for entry in message.entries]
                write_manifest(path, {**facts, USED: [*facts.get(USED, []), *entries]})
            case Step():
                self._display.update(message.lane, message.scenario_id, message.done, message.total)
            case logging.LogRecord():
                logging.getLogger(message.name).handle(message)
            case _:
                raise AssertionError(f"worker {worker} sent {message!r}")

    def outcome(self, outcome: Outcome) -> None:
        self.sink.outcome(outcome)
        self._display.finished([outcome.scenario_id])

    def _store_take(self, taken: Taken) -> None:
        """Under the name that it has here, whatever the worker calls it."""
        path = self._store.video_path(taken.scenario_id, taken.attempt.index)
        self._write(path, taken.video, taken.states)
        self.sink.attempt(taken.scenario_id, replace(taken.attempt, video_path=path))

    def _store_scout(self, scouted: Scouted) -> None:
        path = place_of_scout(self._store.folder, scouted.scenario_id, scouted.scout.number)
        self._write(path, scouted.video, scouted.states)
        self.sink.scout(scouted.scenario_id, replace(scouted.scout, video_path=path))

    def _write(self, path: Path, video: bytes, states: bytes | None) -> None:
        with writing(self._store.folder):
            with whole_file(self._store.folder / path) as part:
                part.write_bytes(video)
            put_states(self._store.folder, path, states)

    def _on_our_clock(self, worker: int, span: Span) -> Span:
        shift_s = self._shift_s[worker]
        return span._replace(
            lane=f"{span.lane} {worker}" if self._has_several and span.lane not in AROUND else span.lane,
            start_s=span.start_s + shift_s,
            end_s=span.end_s + shift_s,
            launch_s=None if span.launch_s is None else span.launch_s + shift_s,
            launched_s=None if span.launched_s is None else span.launched_s + shift_s,
        )
