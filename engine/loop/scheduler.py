"""The turn of the engine: admit, launch, retire. Many scenarios at once, over the lanes of one machine.

Knows no generator, critic, policy, store or selector: it carries out the tasks that scenarios' loops begin.
Invariants: an outcome does not depend on other scenarios or on `overlap`; an error costs its scenario only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.errors import DeviceError, RunLost
from engine.loop.lanes import Lane, Task, errors_to
from engine.loop.scenario import ScenarioLoop
from engine.protocols import Control, Progress
from engine.types import Asked, Outcome

log = logging.getLogger(__name__)

POLL_S = 0.0005
IDLE_S = 0.02
"""Between two looks at a source that has no scenario at the moment, when none is in flight."""


class NothingAsked:
    """The control of a run that nobody can reach."""

    _asked = Asked()

    def look(self) -> Asked:
        return self._asked


@dataclass(slots=True, kw_only=True, eq=False)
class InFlight:
    """A scenario's loop that has begun: its queued tasks, and those that it waits for."""

    loop: ScenarioLoop
    queued: list[Task[Any]] = field(default_factory=list)
    steps: Iterator[Sequence[Task[Any]]] = field(default_factory=lambda: iter(()))
    waits: Sequence[Task[Any]] = ()

    def begin(self, task: Task[Any]) -> Task[Any]:
        self.queued.append(task)
        return task


class Scheduler:
    """Carries out the loops; `run` yields each outcome as soon as it is stored.

    `loops` is asked for the next one when there is room for it. None from it says that there is none at the
    moment, so that it is asked again; its end, that there will be none.

    `ahead` bounds the scenarios in flight and with them the videos in memory: each has at most one take in
    the making. With `overlap=False` one job is in flight at a time.

    `control` is looked at between steps. A run that is paused launches none. A scenario that is held begins
    no task, and what it has in a lane is finished, so that the lane is free and no work is lost; it does not
    count for `ahead`, so that the others go on. One that is skipped drops its tasks and ends.
    """

    def __init__(
        self,
        loops: Iterable[ScenarioLoop | None],
        lanes: Sequence[Lane],
        *,
        progress: Progress,
        overlap: bool = True,
        ahead: int,
        control: Control | None = None,
    ) -> None:
        assert ahead >= 1, f"ahead {ahead} would admit nothing"
        self._waiting: Iterator[ScenarioLoop | None] | None = iter(loops)
        self._lanes = lanes
        self._progress = progress
        self._overlap = overlap
        self._ahead = ahead if overlap else 1
        self._in_flight: dict[
            str, InFlight
        ] = {}  # by scenario, the oldest first: it frees its videos soonest
        self._control = control or NothingAsked()
        self._asked = Asked()
        self._aside: list[ScenarioLoop] = []  # held before they began
        self._moved = True  # whether the last tick did anything

    def run(self) -> Iterator[Outcome]:
        """Every outcome, in the order of finishing. DeviceError when the GPU is lost, RunLost by the sink."""
        while self._waiting is not None or self._in_flight or self._aside:
            yield from self.tick()
            if not self._moved:
                self._rest()

    def tick(self) -> list[Outcome]:
        self._moved = False
        self._obey()
        if not self._asked.is_paused:
            self._admit()  # host: give idle lanes a job
            self._launch()  # device: one step per job
        return self._retire()  # host: consume what has finished

    def _obey(self) -> None:
        """What was asked since the last look."""
        asked = self._control.look()
        if asked is self._asked:
            return
        self._asked, self._moved = asked, True
        for name in asked.skipped & self._in_flight.keys():
            scenario = self._in_flight[name]
            if scenario.loop.outcome is None:
                self._end(scenario, scenario.loop.skip)

    def _admit(self) -> None:
        while len(self._in_flight.keys() - self._asked.held) < self._ahead and (loop := self._next()):
            scenario = InFlight(loop=loop)
            self._in_flight[loop.scenario.id] = scenario
            if loop.scenario.id in self._asked.skipped:
                self._end(scenario, loop.skip)
                continue
            scenario.steps = loop.run(scenario.begin)
            self._advance(scenario)
        for lane in self._lanes:
            while self._has_room(lane) and (found := self._next_queued(lane)) is not None:
                scenario, task = found
                scenario.queued.remove(task)
                lane.admit(task)
                self._moved = True
                self._check(scenario, task)

    def _next(self) -> ScenarioLoop | None:
        """One that is not held."""
        for place, loop in enumerate(self._aside):
            if loop.scenario.id not in self._asked.held:
                return self._aside.pop(place)
        while self._waiting is not None:
            try:
                found = next(self._waiting)
            except StopIteration:
                self._waiting = None
                break
            if found is None or found.scenario.id not in self._asked.held:
                return found
            self._aside.append(found)
        return None

    def _launch(self) -> None:
        for lane in self._lanes:
            self._moved |= lane.launch()
            for task in list(lane.active):
                self._check(self._in_flight[task.scenario_id], task)

    def _retire(self) -> list[Outcome]:
        for lane in self._lanes:
            ended, moved = lane.retire()
            self._moved |= moved
            for task in ended:
                scenario = self._in_flight[task.scenario_id]
                self._check(scenario, task)
                if scenario.loop.outcome is None:
                    with errors_to(partial(self._fail, scenario)):
                        task.then(task.result)
                    self._advance(scenario)
        return [
            self._close(name) for name, one in list(self._in_flight.items()) if one.loop.outcome is not None
        ]

    def _advance(self, scenario: InFlight) -> None:
        """Let the loop go on where it has what it waits for."""
        while scenario.loop.outcome is None and all(task.over for task in scenario.waits):
            with errors_to(partial(self._fail, scenario)):
                scenario.waits = next(scenario.steps, ())

    def _close(self, scenario_id: str) -> Outcome:
        outcome = self._in_flight[scenario_id].loop.close()
        del self._in_flight[scenario_id]
        self._progress.finished([scenario_id])
        self._moved = True
        return outcome

    def _next_queued(self, lane: Lane) -> tuple[InFlight, Task[Any]] | None:
        found = (
            (one, task)
            for name, one in self._in_flight.items()
            if name not in self._asked.held
            for task in one.queued
            if task.lane == lane.name
        )
        return next(found, None)

    def _has_room(self, lane: Lane) -> bool:
        return lane.has_room if self._overlap else not any(lane.active for lane in self._lanes)

    def _rest(self) -> None:
        """Nothing moved: block on the only pending job, or sleep briefly where any may end first."""
        pending = [(lane, task) for lane in self._lanes for task in lane.active if task.call or task.fences]
        if not pending:
            is_held = self._asked.is_paused or self._asked.held
            assert not self._in_flight or is_held, "no lane has work, yet scenarios are left"
            if self._waiting is not None or is_held:
                time.sleep(IDLE_S)
        elif len(pending) == 1:
            lane, task = pending[0]
            lane.wait(task)
        else:
            time.sleep(POLL_S)

    def _check(self, scenario: InFlight, task: Task[Any]) -> None:
        if task.error is not None and scenario.loop.outcome is None:
            self._fail(scenario, task.error)

    def _fail(self, scenario: InFlight, error: Exception) -> None:
        """An error costs its scenario only; one that broke the device or the run folder ends the run."""
        name = scenario.loop.scenario.id
        if isinstance(error, RunLost):
            raise error
        if _is_sticky(error):
            raise DeviceError(
                f"the GPU failed during {name}: {error}",
                fix="continue with `retake resume RUN` (finished attempts stay); see `retake doctor`",
            ) from error
        log.info("scenario=%s fails", name, exc_info=error)
        self._end(scenario, partial(scenario.loop.fail, f"{type(error).__name__}: {error}"))

    def _end(self, scenario: InFlight, how: Callable[[], None]) -> None:
        """Forget its tasks, and let its loop end."""
        scenario.queued.clear()
        for lane in self._lanes:
            lane.drop(scenario.loop.scenario.id)
        how()


def _is_sticky(error: Exception) -> bool:
    """Whether the CUDA context is lost, so that every later call of this process would fail as well."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return "AcceleratorError" in names or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
