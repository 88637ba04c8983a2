"""Lanes and their tasks: where work runs, how much of it at once, and what it came to.

A lane knows no method. Its three verbs are those of the scheduler: `admit` a task, `launch` one step of each,
`retire` what is over. Invariant: no error leaves a lane; it becomes the error of its task.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from engine.protocols import Fence, Host, Job, Progress, Recorder

T = TypeVar("T")

GENERATE, CRITIQUE, ENCODE, SELECT = "generate", "critique", "encode", "select"
LANE_JOBS = {GENERATE: 1, CRITIQUE: 1, ENCODE: 2, SELECT: 1}
"""How many jobs a lane runs at once; a device lane is one stream, the others are host threads."""
HOST_LANES = (ENCODE, SELECT)
STEPS_IN_FLIGHT = 2
"""The next step of a job is enqueued before the last one ends, so the device never starves."""

OnLane = Callable[[str], AbstractContextManager[None]]
"""A lane's name -> the context in which it launches its work: its CUDA stream."""


def _nothing(result: object) -> None:
    return None


@dataclass(slots=True, kw_only=True, eq=False)
class Task(Generic[T]):
    """One job of one scenario. `start` gives the job; on a host lane it is the work itself.

    `then` takes the result as soon as it is there, before whoever waits for the task goes on.
    """

    lane: str
    name: str
    scenario_id: str
    attempt: int
    start: Callable[[], Any] | None
    then: Callable[[T], None] = _nothing
    job: Job[T] | None = None
    fences: deque[Fence] = field(default_factory=deque)
    num_launched: int = 0
    started_s: float = 0.0
    seconds: float = 0.0
    over: bool = False
    result: T | None = None
    error: Exception | None = None

    def claim(self) -> T:
        """The result, which the task forgets: frames are freed with their last consumer."""
        assert self.over and self.result is not None, f"{self.name} has no result to claim"
        result, self.result = self.result, None
        return result

    def fail(self, error: Exception) -> None:
        self.error = error

    @property
    def steps_left(self) -> int:
        return 0 if self.job is None else self.job.steps_left

    def poll(self) -> bool:
        """Forget the steps that are over; whether that was the last one."""
        while self.fences and self.fences[0].done():
            self.fences.popleft()
        return not self.fences and self.job is not None and self.steps_left == 0


@contextmanager
def errors_to(handle: Callable[[Exception], None]) -> Iterator[None]:
    """The one place where any error is caught: the error of a scenario's work is that scenario's."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        handle(error)


class Lane:
    """Work of one kind, launched by the thread that calls.

    With `host`, a task's work runs on one of its threads; without, the job enqueues its steps on the lane's
    stream. A device lane with a host thread of its own has the same verbs, and a `launch` that does nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        recorder: Recorder,
        progress: Progress,
        on_lane: OnLane = lambda lane: nullcontext(),
        host: Host | None = None,
    ) -> None:
        self.name = name
        self.active: list[Task[Any]] = []
        self._recorder, self._progress = recorder, progress
        self._on_lane, self._host = on_lane, host

    @property
    def has_room(self) -> bool:
        return len(self.active) < LANE_JOBS[self.name]

    def admit(self, task: Task[Any]) -> None:
        assert task.start is not None, f"{task.name} was started before"
        start, task.start = task.start, None  # what it holds, such as frames, is the job's from now on
        task.started_s = time.perf_counter()
        self.active.append(task)
        with errors_to(task.fail), self._on_lane(self.name):
            task.job = start() if self._host is None else self._host.job(self._on_thread(task, start))

    def launch(self) -> bool:
        """One step of each job that has less than STEPS_IN_FLIGHT; never blocks. Whether there was one."""
        return any([self._launch(task) for task in self.active])

    def retire(self) -> tuple[list[Task[Any]], bool]:
        """The tasks that are over, by result or error; and whether any step ended."""
        moved = any([self._poll(task) for task in self.active])
        ended = [task for task in self.active if task.over or task.error is not None]
        self.active = [task for task in self.active if task not in ended]
        return ended, moved or bool(ended)

    def drop(self, scenario_id: str) -> None:
        """Forget a scenario's tasks. What they launched runs to its end, and nobody asks for it."""
        self.active = [task for task in self.active if task.scenario_id != scenario_id]

    def wait(self, task: Task[Any]) -> None:
        """Block until the oldest step of `task` is over."""
        with errors_to(task.fail):
            task.fences[0].wait()

    def _launch(self, task: Task[Any]) -> bool:
        if task.error is not None:
            return False
        total = 0
        with errors_to(task.fail):
            if len(task.fences) >= STEPS_IN_FLIGHT or task.steps_left == 0:
                return False
            assert task.job is not None, "an active task has a job"
            with self._on_lane(self.name), self._device_span(task):
                task.fences.append(task.job.launch())
            task.num_launched += 1
            total = task.num_launched + task.steps_left
        if task.error is None:
            self._progress.update(self.name, task.scenario_id, task.num_launched, total)
        return True

    def _poll(self, task: Task[Any]) -> bool:
        num_in_flight = len(task.fences)
        with errors_to(task.fail):
            if task.error is not None or not task.poll():
                return len(task.fences) < num_in_flight  # room for the next step
            assert task.job is not None, "an active task has a job"
            with self._on_lane(self.name):
                task.result = task.job.result()
            task.seconds = time.perf_counter() - task.started_s
            task.over, task.job = True, None
        return True

    def _device_span(self, task: Task[Any]) -> AbstractContextManager[None]:
        return nullcontext() if self._host is not None else self._span(task)

    def _span(self, task: Task[Any]) -> AbstractContextManager[None]:
        return self._recorder.span(self.name, task.scenario_id, task.attempt, task.name)

    def _on_thread(self, task: Task[T], work: Callable[[], T]) -> Callable[[], T]:
        """`work` with the lane's stream and span, both entered on the thread that does it."""

        def inside() -> T:
            with self._on_lane(self.name), self._span(task):
                return work()

        return inside


def make_lanes(
    *, host: Host, recorder: Recorder, progress: Progress, on_lane: OnLane = lambda lane: nullcontext()
) -> tuple[Lane, ...]:
    """One lane of each kind, in the order in which they are served."""
    return tuple(
        Lane(
            name,
            recorder=recorder,
            progress=progress,
            on_lane=on_lane,
            host=host if name in HOST_LANES else None,
        )
        for name in LANE_JOBS
    )
