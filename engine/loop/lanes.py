"""Lanes and their tasks: where work runs, how much of it at once, and what it came to.

A lane knows no method. Its three verbs are those of the scheduler: `admit` a task, `launch` one step of each,
`retire` what is over. Invariants: no error leaves a lane, it becomes the error of its task; one thread at a
time calls into a job.
"""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from engine.errors import DoesNotFit
from engine.protocols import Calls, Fence, Host, Job, Progress, Recorder

T = TypeVar("T")

log = logging.getLogger(__name__)

ENCODE, SELECT, GENERATE, CRITIQUE = "encode", "select", "generate", "critique"
LANE_JOBS = {ENCODE: 2, SELECT: 1, GENERATE: 1, CRITIQUE: 1}
"""How many jobs a lane runs at once, in the order in which lanes are served: what is made is stored first,
then the next take begins."""
HOST_LANES = (ENCODE, SELECT)
HOST_THREADS = sum(LANE_JOBS[lane] for lane in HOST_LANES)
STEPS_IN_FLIGHT = 2
"""The next step of a job is enqueued before the last one ends, so the device never starves."""
MEMORY_TRIES = 3
"""A job that found no memory begins anew this often before its scenario fails."""

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
    call: Future[None] | None = None
    """What is being called of `start` or `job`; until it is done, only the thread that does it uses these."""
    fences: deque[Fence] = field(default_factory=deque)
    num_launched: int = 0
    num_begun: int = 0
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

    def begin_anew(self) -> None:
        self.job, self.call, self.error = None, None, None
        self.fences.clear()
        self.num_launched = 0

    @property
    def is_ready(self) -> bool:
        """Whether a step may be launched now."""
        if self.error is not None or self.call is not None or self.job is None:
            return False
        return len(self.fences) < STEPS_IN_FLIGHT and self.job.steps_left > 0

    @property
    def is_launched(self) -> bool:
        """Whether all steps are; some may be in flight."""
        return self.call is None and self.job is not None and self.job.steps_left == 0

    def poll(self) -> bool:
        """Forget the steps that are over; whether that was the last one."""
        while self.fences and self.fences[0].done():
            self.fences.popleft()
        return not self.fences and self.job is not None and self.job.steps_left == 0


@contextmanager
def errors_to(handle: Callable[[Exception], None]) -> Iterator[None]:
    """The one place where any error is caught: the error of a scenario's work is that scenario's."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        handle(error)


def inline(function: Callable[[], None]) -> Future[None]:
    """Calls at once, on the caller's thread."""
    made: Future[None] = Future()
    with errors_to(made.set_exception):
        function()
        made.set_result(None)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """Host threads of device lanes, so that a slow launch of one holds up no other.

    `of`: where the jobs of each lane are called, one at a time. `starts`: where the next task of the generate
    lane reads its prefix while the one before it is made. `release` gives the device back what caches hold.
    `calling`: entered around each call that uses the device.
    """

    of: Mapping[str, Calls] = field(default_factory=dict)
    starts: Calls | None = None
    release: Callable[[], None] = lambda: None
    calling: Callable[[], AbstractContextManager[None]] = nullcontext


class Lane:
    """Work of one kind. `width` is how many jobs it runs at once; it shrinks where the device has no memory.

    With `host`, a task's work runs on one of its threads; without, the job enqueues its steps on the lane's
    stream, called as `threads` says, or else by the thread that calls `launch`.
    """

    def __init__(
        self,
        name: str,
        *,
        recorder: Recorder,
        progress: Progress,
        on_lane: OnLane = lambda lane: nullcontext(),
        host: Host | None = None,
        threads: Threads | None = None,
        width: int | None = None,
    ) -> None:
        threads = threads or Threads()
        self.name = name
        self.width = LANE_JOBS[name] if width is None else width
        self.active: list[Task[Any]] = []
        self._recorder, self._progress = recorder, progress
        self._on_lane, self._host = on_lane, host
        self._calls = threads.of.get(name, inline)
        self._starts = threads.starts if name == GENERATE else None
        self._release = threads.release
        self._calling = threads.calling

    @property
    def has_room(self) -> bool:
        """Where prefixes are read ahead, for one task more than runs."""
        return len(self.active) < self.width + (self._starts is not None)

    def admit(self, task: Task[Any]) -> None:
        assert task.num_begun == 0, f"{task.name} was begun before"
        task.started_s = time.perf_counter()
        self.active.append(task)
        self._begin(task, self._starts or self._calls)

    def launch(self) -> bool:
        """One step of each job that has less than STEPS_IN_FLIGHT. Whether there was one.

        Never blocks where the lane has a thread. The next job begins behind the last step of the one before,
        so that the device has work while the result of that one is fetched.
        """
        unlaunched = [task for task in self.active if not task.is_launched]
        return any([self._launch(task) for task in unlaunched[: self.width]])

    def retire(self) -> tuple[list[Task[Any]], bool]:
        """The tasks that are over, by result or error; and whether any step ended."""
        moved = any([self._poll(task) for task in list(self.active)])
        ended = [task for task in self.active if task.over or task.error is not None]
        self.active = [task for task in self.active if task not in ended]
        return ended, moved or bool(ended)

    def drop(self, scenario_id: str) -> None:
        """Forget a scenario's tasks. What they launched runs to its end, and nobody asks for it."""
        self.active = [task for task in self.active if task.scenario_id != scenario_id]

    def wait(self, task: Task[Any]) -> None:
        """Block until what is called of `task`, or its oldest step, is over."""
        if task.call is not None:
            concurrent.futures.wait([task.call])
            return
        with errors_to(task.fail):
            task.fences[0].wait()

    def _begin(self, task: Task[Any], calls: Calls) -> None:
        task.num_begun += 1
        task.call = calls(partial(self._start, task))
        self._collect(task)

    def _launch(self, task: Task[Any]) -> bool:
        with errors_to(task.fail):
            if not task.is_ready:
                return False
            task.call = self._calls(partial(self._step, task))
            self._collect(task)
        return True

    def _collect(self, task: Task[Any]) -> bool:
        """Whether a call of the task has ended; its error is the task's."""
        if task.call is None or not task.call.done():
            return False
        call, task.call = task.call, None
        with errors_to(task.fail):
            call.result()
            if task.job is not None and task.num_launched:
                total = task.num_launched + task.job.steps_left
                self._progress.update(self.name, task.scenario_id, task.num_launched, total)
        return True

    def _poll(self, task: Task[Any]) -> bool:
        """Whether a call or a step of the task has ended."""
        num_in_flight, moved = len(task.fences), self._collect(task)
        with errors_to(task.fail):
            if task.error is None and task.call is None and not task.over and task.poll():
                task.call = self._calls(partial(self._finish, task))
                moved = self._collect(task) or moved
        if task.error is not None:
            self._make_room(task)
        return moved or task.error is not None or len(task.fences) < num_in_flight

    def _make_room(self, task: Task[Any]) -> None:
        """A task that found no memory begins anew, beside fewer others and after the caches were emptied."""
        assert task.error is not None, "only an error is handled here"
        if not _is_out_of_memory(task.error):
            return
        if task.num_begun == MEMORY_TRIES:
            task.error = DoesNotFit(
                f"the device had no memory for {task.name} in {MEMORY_TRIES} tries: {task.error}",
                fix="close other programs on the GPU, lower schedule.replies, or see `retake plan`",
            )
            return
        self.width = max(1, min(self.width, len(self.active)) - 1)
        log.warning(
            "no memory for %s of %r: it begins anew, with at most %d at once in this lane",
            task.name, task.scenario_id, self.width,
        )  # fmt: skip
        self.active.remove(task)
        self.active.append(task)  # behind those that have their memory
        task.begin_anew()
        self._begin(task, self._emptied)

    def _emptied(self, function: Callable[[], None]) -> Future[None]:
        def calls() -> None:
            with self._calling():
                self._release()
            function()

        return self._calls(calls)

    def _start(self, task: Task[Any]) -> None:
        assert task.start is not None, f"{task.name} is over"
        with self._on_lane(self.name):
            task.job = (
                task.start() if self._host is None else self._host.job(self._on_thread(task, task.start))
            )

    def _step(self, task: Task[Any]) -> None:
        assert task.job is not None, "an active task has a job"
        with self._device_call(), self._on_lane(self.name), self._device_span(task):
            task.fences.append(task.job.launch())
        task.num_launched += 1

    def _finish(self, task: Task[Any]) -> None:
        """Here its caller forgets the job, and what started it: frames are freed with their last consumer."""
        assert task.job is not None, "an active task has a job"
        with self._device_call(), self._on_lane(self.name):
            task.result = task.job.result()
        task.seconds = time.perf_counter() - task.started_s
        task.job, task.start = None, None
        task.over = True

    def _device_call(self) -> AbstractContextManager[None]:
        return nullcontext() if self._host is not None else self._calling()

    def _device_span(self, task: Task[Any]) -> AbstractContextManager[None]:
        return nullcontext() if self._host is not None else self._span(task)

    def _span(self, task: Task[Any]) -> AbstractContextManager[None]:
        return self._recorder.span(self.name, task.scenario_id, task.attempt, task.name)

    def _on_thread(self, task: Task[T], work: Callable[[], T]) -> Callable[[], T]:
        """`work` with the lane's stream and span, both entered on the thread that does it."""
        calling = self._calling if self.name == SELECT else nullcontext  # encoding does not use the device

        def inside() -> T:
            with calling(), self._on_lane(self.name), self._span(task):
                return work()

        return inside


def _is_out_of_memory(error: Exception) -> bool:
    """torch.OutOfMemoryError, or what a library of CUDA makes of it."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return "OutOfMemoryError" in names or (isinstance(error, RuntimeError) and "out of memory" in str(error))


def make_lanes(
    *,
    host: Host,
    recorder: Recorder,
    progress: Progress,
    on_lane: OnLane = lambda lane: nullcontext(),
    threads: Threads | None = None,
    widths: Mapping[str, int] | None = None,
) -> tuple[Lane, ...]:
    """One lane of each kind, in the order in which they are served; `widths` where not LANE_JOBS."""
    return tuple(
        Lane(
            name,
            recorder=recorder,
            progress=progress,
            on_lane=on_lane,
            host=host if name in HOST_LANES else None,
            threads=threads,
            width=(widths or {}).get(name),
        )
        for name in LANE_JOBS
    )
