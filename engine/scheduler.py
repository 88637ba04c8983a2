"""Three lanes, generate | critique | encode, and the turn of the engine: admit, launch, retire.

Knows no model, no codec, no store and no torch: it drives jobs. Invariants: an outcome does not depend
on other scenarios or on `overlap`; what was stored is never computed again; a failing job costs its scenario.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import DeviceError
from engine.protocols import Critic, Fence, Generator, Host, Job, Policy, Progress, Recorder, Sink
from engine.types import (
    Attempt,
    Critique,
    History,
    Outcome,
    PlanReply,
    Prompt,
    Scenario,
    Stop,
    Video,
)

GENERATE, CRITIQUE, ENCODE = "generate", "critique", "encode"
LANE_JOBS = {GENERATE: 1, CRITIQUE: 1, ENCODE: 2}
"""How many jobs a lane runs at once; a device lane is one stream, the encode lane a few host threads."""

STEPS_IN_FLIGHT = (
    2  # the next step of a job is enqueued before the last one ends, so the device never starves
)
POLL_S = 0.0005

Encode = Callable[[Scenario, int, Video], Path]
"""Writes the video of one attempt and returns its path relative to the run folder. Runs on a host thread."""

Select = Callable[[Scenario, Sequence[Attempt]], Sequence[Mapping[str, float]]]
"""Selector scores by name of each attempt, from the stored videos. Runs on a host thread."""


@dataclass(slots=True, kw_only=True)
class _Take:
    """The attempt in the making."""

    prompt: Prompt
    video_path: Path | None = None
    critique: Critique | None = None
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class _Track:
    """One scenario in flight."""

    scenario: Scenario
    plan: PlanReply | None
    attempts: list[Attempt]
    take: _Take | None = None
    stopped: str | None = None
    chosen: int | None = None
    failure: str | None = None

    def outcome(self) -> Outcome | None:
        if self.chosen is None and self.failure is None:
            return None
        return Outcome(
            scenario_id=self.scenario.id,
            attempts=tuple(self.attempts),
            chosen=self.chosen,
            failure=self.failure,
            stopped=self.stopped,
        )


@dataclass(slots=True, kw_only=True, eq=False)
class _Task:
    """One job of one track. `land` takes its result and its seconds, on the scheduler's thread."""

    lane: str
    name: str
    track: _Track
    start: Callable[[], Job[Any]]
    land: Callable[[Any, float], None]
    job: Job[Any] | None = None
    fences: deque[Fence] = field(default_factory=deque)
    num_launched: int = 0
    started_s: float = 0.0

    def poll(self) -> bool:
        """Forget the steps that are over; whether that was the last one."""
        while self.fences and self.fences[0].done():
            self.fences.popleft()
        return not self.fences and self.job is not None and self.job.steps_left == 0


class Scheduler:
    """Runs the refinement loop of every scenario; `run` yields each outcome as soon as it is stored.

    `history` holds what earlier processes stored, by scenario id. `ahead` bounds the scenarios in flight and
    with them the videos in memory. With `overlap=False` the same code has one job in flight at a time.
    """

    def __init__(
        self,
        *,
        scenarios: Sequence[Scenario],
        generator: Generator,
        critic: Critic,
        policy: Policy,
        encode: Encode,
        host: Host,
        sink: Sink,
        recorder: Recorder,
        progress: Progress,
        select: Select | None = None,
        history: Mapping[str, History] | None = None,
        on_lane: Callable[[str], AbstractContextManager[None]] = lambda lane: nullcontext(),
        overlap: bool = True,
        ahead: int = 4,
    ) -> None:
        assert ahead >= 1, f"ahead {ahead} would admit nothing"
        self._waiting = deque(scenarios)
        self._generator = generator
        self._critic = critic
        self._policy = policy
        self._encode = encode
        self._host = host
        self._sink = sink
        self._recorder = recorder
        self._progress = progress
        self._select = select
        self._history = history or {}
        self._on_lane = on_lane
        self._overlap = overlap
        self._ahead = ahead if overlap else 1
        self._tracks: list[_Track] = []
        self._queued: dict[str, list[_Task]] = {lane: [] for lane in LANE_JOBS}
        self._active: dict[str, list[_Task]] = {lane: [] for lane in LANE_JOBS}
        self._moved = True  # whether the last tick did anything

    def run(self) -> Iterator[Outcome]:
        """Every outcome, in the order of finishing. Raises DeviceError when the GPU is lost."""
        while self._waiting or self._tracks:
            yield from self.tick()
            if not self._moved:
                self._rest()

    def tick(self) -> list[Outcome]:
        self._moved = False
        self._admit()  # host: give idle lanes a job
        self._launch()  # device: one step per job, never blocks
        return self._retire()  # host: consume what has finished

    def _admit(self) -> None:
        while self._waiting and len(self._tracks) < self._ahead:
            self._open(self._waiting.popleft())
        for lane, tasks in self._queued.items():
            while tasks and self._has_room(lane):
                # The oldest scenario first: it frees its videos soonest.
                task = min(tasks, key=lambda task: self._tracks.index(task.track))
                tasks.remove(task)
                with self._job_boundary(task.track), self._on_lane(lane):
                    task.started_s = time.perf_counter()
                    task.job = task.start()
                    self._active[lane].append(task)
                self._moved = True

    def _launch(self) -> None:
        for task in self._all_active():
            job, track = task.job, task.track
            assert job is not None, "an active task has a job"
            if track.failure is not None:
                continue
            with self._job_boundary(track):
                if len(task.fences) >= STEPS_IN_FLIGHT or job.steps_left == 0:
                    continue
                with self._on_lane(task.lane), self._span(task):
                    task.fences.append(job.launch())
                task.num_launched += 1
                num_steps = task.num_launched + job.steps_left
            self._moved = True
            if track.failure is None:
                self._progress.update(task.lane, track.scenario.id, task.num_launched, num_steps)

    def _retire(self) -> list[Outcome]:
        for task in self._all_active():
            job, track = task.job, task.track
            assert job is not None, "an active task has a job"
            if track.failure is not None:
                continue
            with self._job_boundary(track), self._on_lane(task.lane):
                if not task.poll():
                    continue
                result = job.result()
            self._moved = True
            if track.failure is None:
                self._active[task.lane].remove(task)
                task.land(result, time.perf_counter() - task.started_s)
        return [outcome for track in list(self._tracks) if (outcome := self._close(track)) is not None]

    # The life of one scenario: open, take by take, close.

    def _open(self, scenario: Scenario) -> None:
        past = self._history.get(scenario.id, History())
        track = _Track(scenario=scenario, plan=past.plan, attempts=list(past.attempts))
        self._tracks.append(track)
        if track.plan is None:
            self._queue(CRITIQUE, "plan", track, partial(self._critic.plan, scenario), self._land_plan)
        self._advance(track)

    def _advance(self, track: _Track) -> None:
        """Begin the next take or the choice, unless one is being made or the plan is still awaited."""
        if track.take is not None:
            return
        with self._job_boundary(track):
            if not track.attempts:
                self._begin_take(track, self._policy.first(track.scenario))
            elif track.plan is not None:
                decision = self._policy.next(track.scenario, track.plan, track.attempts)
                if isinstance(decision, Stop):
                    track.stopped = decision.reason
                    self._begin_choice(track)
                else:
                    self._begin_take(track, decision)

    def _begin_take(self, track: _Track, prompt: Prompt) -> None:
        track.take = _Take(prompt=prompt)
        start = partial(self._generator.start, track.scenario, prompt)
        self._queue(GENERATE, "generate", track, start, self._land_video)

    def _begin_choice(self, track: _Track) -> None:
        if self._select is None:
            track.chosen = self._policy.choose(track.attempts)
        else:
            work = partial(self._select, track.scenario, tuple(track.attempts))
            self._queue(ENCODE, "select", track, self._host_start(track, "select", work), self._land_scores)

    def _land_plan(self, track: _Track, reply: PlanReply, seconds: float) -> None:
        track.plan = reply
        self._sink.plan(track.scenario.id, reply)
        self._advance(track)

    def _land_video(self, track: _Track, video: Video, seconds: float) -> None:
        take = track.take
        assert take is not None, "a video belongs to a take"
        take.timings["generate"] = seconds
        work = partial(self._encode, track.scenario, len(track.attempts), video)
        self._queue(ENCODE, "encode", track, self._host_start(track, "encode", work), self._land_path)
        start = partial(self._critic.start, track.scenario, take.prompt, video)
        self._queue(CRITIQUE, "critique", track, start, self._land_critique)

    def _land_path(self, track: _Track, path: Path, seconds: float) -> None:
        assert track.take is not None, "a video belongs to a take"
        track.take.video_path = path
        track.take.timings["encode"] = seconds
        self._complete(track, track.take)

    def _land_critique(self, track: _Track, critique: Critique, seconds: float) -> None:
        assert track.take is not None, "a critique belongs to a take"
        track.take.critique = critique
        track.take.timings["critique"] = seconds
        self._complete(track, track.take)

    def _complete(self, track: _Track, take: _Take) -> None:
        """Store the take once both its video and its critique are there, then go on."""
        if take.video_path is None or take.critique is None:
            return
        attempt = Attempt(
            index=len(track.attempts),
            prompt=take.prompt,
            video_path=take.video_path,
            critique=take.critique,
            timings=take.timings,
        )
        self._sink.attempt(track.scenario.id, attempt)
        track.attempts.append(attempt)
        track.take = None
        self._advance(track)

    def _land_scores(self, track: _Track, scores: Sequence[Mapping[str, float]], seconds: float) -> None:
        with self._job_boundary(track):
            assert all(math.isfinite(v) for entry in scores for v in entry.values()), (
                f"selector gave {scores}"
            )
            pairs = zip(track.attempts, scores, strict=True)
            track.attempts = [replace(attempt, selector_scores=dict(entry)) for attempt, entry in pairs]
            track.chosen = self._policy.choose(track.attempts)

    def _close(self, track: _Track) -> Outcome | None:
        outcome = track.outcome()
        if outcome is not None:
            self._sink.outcome(outcome)
            self._tracks.remove(track)
            self._progress.finished([track.scenario.id])
            self._moved = True
        return outcome

    # Mechanics.

    def _queue(
        self,
        lane: str,
        name: str,
        track: _Track,
        start: Callable[[], Job[Any]],
        land: Callable[[_Track, Any, float], None],
    ) -> None:
        self._queued[lane].append(
            _Task(lane=lane, name=name, track=track, start=start, land=partial(land, track))
        )

    def _host_start(self, track: _Track, name: str, work: Callable[[], Any]) -> Callable[[], Job[Any]]:
        """The start of a host job; its span is recorded where it runs, on the worker's thread."""
        span = partial(self._recorder.span, ENCODE, track.scenario.id, len(track.attempts), name)
        return partial(self._host.job, partial(_within, span, work))

    def _span(self, task: _Task) -> AbstractContextManager[None]:
        if task.lane == ENCODE:
            return nullcontext()
        track = task.track
        return self._recorder.span(task.lane, track.scenario.id, len(track.attempts), task.name)

    def _has_room(self, lane: str) -> bool:
        if not self._overlap:
            return not self._all_active()
        return len(self._active[lane]) < LANE_JOBS[lane]

    def _all_active(self) -> list[_Task]:
        return [task for tasks in self._active.values() for task in tasks]

    def _rest(self) -> None:
        """Nothing moved: block on the only pending job, or sleep briefly where any may end first."""
        pending = [task for task in self._all_active() if task.fences]
        assert pending, "no lane has work, yet scenarios are left"
        if len(pending) == 1:
            with self._job_boundary(pending[0].track):
                pending[0].fences[0].wait()
        else:
            time.sleep(POLL_S)

    @contextmanager
    def _job_boundary(self, track: _Track) -> Iterator[None]:
        """An error inside costs this scenario only; one that broke the device ends the run."""
        try:
            yield
        except Exception as error:
            if _is_sticky(error):
                raise DeviceError(
                    f"the GPU failed during {track.scenario.id}: {error}",
                    fix="continue with `retake resume RUN` (finished attempts stay); see `retake doctor`",
                ) from error
            track.failure = f"{type(error).__name__}: {error}"
            for tasks in (*self._queued.values(), *self._active.values()):
                tasks[:] = [task for task in tasks if task.track is not track]


def _within(span: Callable[[], AbstractContextManager[None]], work: Callable[[], Any]) -> Any:
    with span():
        return work()


def _is_sticky(error: Exception) -> bool:
    """Whether the CUDA context is lost, so that every later call of this process would fail as well."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return "AcceleratorError" in names or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
