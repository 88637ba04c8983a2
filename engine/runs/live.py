"""RUN/live.json: how far the process is that writes the run, for whoever looks at it meanwhile.

Written at most once a second, and worth nothing once the process has ended: what is finished is in the store.
Invariant: it never ends a run; where it cannot be written the store says why.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.errors import StoreError
from engine.protocols import Display
from engine.runs.folder import place_in
from engine.runs.pace import Pace
from engine.types import Attempt, Outcome, PlanReply, Scout
from kernels.files import read_json, whole_file

LIVE = "live.json"
WRITE_EVERY_S = 1.0
"""A write takes some 100 us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """`lanes`: by lane and scenario, steps done and steps in all. `memory`: of the device in bytes, by what
    it is; nothing on a CPU, nor of workers."""

    pid: int
    updated_s: float  # since the epoch
    worked_s: float  # since the process began with the run, without its pauses
    lanes: Mapping[str, Mapping[str, tuple[int, int]]]
    memory: Mapping[str, int]
    pace: Pace


def read_live(run: Path) -> LiveState | None:
    """None where there is none, or none of ours."""
    try:
        found = read_json(place_in(run, LIVE))
        return LiveState(
            pid=int(found["pid"]),
            updated_s=float(found["updated_s"]),
            worked_s=float(found["worked_s"]),
            lanes={
                str(lane): {str(name): (int(done), int(total)) for name, (done, total) in of_lane.items()}
                for lane, of_lane in found["lanes"].items()
            },
            memory={str(name): int(size) for name, size in found["memory"].items()},
            pace=Pace(
                num=int(found["pace"]["num"]),
                last_s=float(found["pace"]["last_s"]),
                squares=float(found["pace"]["squares"]),
            ),
        )
    except (OSError, StoreError, ValueError, KeyError, TypeError, AttributeError):
        return None


class Live:
    """A display that passes on what it is told, and notes it; a context, which notes the end."""

    def __init__(
        self,
        folder: Path,
        display: Display,
        *,
        worked_s: Callable[[], float],
        memory: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._path = place_in(folder, LIVE)
        self._display, self._worked_s, self._memory = display, worked_s, memory
        self._lanes: dict[str, dict[str, tuple[int, int]]] = {}
        self._pace = Pace()
        self._written_s = float("-inf")

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lanes.clear()
        self._write()

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None:
        of_lane = self._lanes.setdefault(lane, {})
        if done < total:
            of_lane[scenario_id] = (done, total)
        else:
            of_lane.pop(scenario_id, None)
        self._display.update(lane, scenario_id, done, total)
        self._note()

    def finished(self, scenario_ids: Iterable[str]) -> None:
        self._display.finished(scenario_ids)

    def plan(self, scenario_id: str, reply: PlanReply) -> None:
        self._display.plan(scenario_id, reply)

    def scout(self, scenario_id: str, scout: Scout) -> None:
        self._display.scout(scenario_id, scout)

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        self._display.ranked(scenario_id, scouts)

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        self._display.attempt(scenario_id, attempt)

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        self._display.judged(scenario_id, attempt)

    def outcome(self, outcome: Outcome) -> None:
        if costs_time(outcome):
            self._pace.ended(self._worked_s())
        for of_lane in self._lanes.values():
            of_lane.pop(outcome.scenario_id, None)
        self._display.outcome(outcome)
        self._note()

    def _note(self) -> None:
        if time.monotonic() >= self._written_s + WRITE_EVERY_S:
            self._write()

    def _write(self) -> None:
        self._written_s = time.monotonic()
        state: dict[str, Any] = {
            "pid": os.getpid(),
            "updated_s": time.time(),
            "worked_s": self._worked_s(),
            "lanes": self._lanes,
            "memory": dict(self._memory()),
            "pace": asdict(self._pace),
        }
        with suppress(OSError), whole_file(self._path) as part:
            part.write_text(json.dumps(state), encoding="utf-8")


def costs_time(outcome: Outcome) -> bool:
    """Whether it says anything of the pace: a scenario that was refused, or skipped at once, does not."""
    return outcome.failure is None or bool(outcome.attempts)
