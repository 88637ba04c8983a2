"""The lanes generate | critique | encode | select and the turn of the engine: admit, launch, retire.

Knows no model, no codec, no store and no torch: it drives jobs. Invariants: an outcome does not depend
on other scenarios or on `overlap`; what was stored is never computed again; a failing job costs its scenario.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import DeviceError
from engine.loop.tracks import Take, Task, Track
from engine.protocols import Critic, Generator, Host, Job, Policy, Progress, Recorder, Sink
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

GENERATE, CRITIQUE, ENCODE, SELECT = "generate", "critique", "encode", "select"
LANE_JOBS = {GENERATE: 1, CRITIQUE: 1, ENCODE: 2, SELECT: 1}
"""How many jobs a lane runs at once; a device lane is one stream, the others are host threads."""

HOST_LANES = (ENCODE, SELECT)

STEPS_IN_FLIGHT = (
    2  # the next step of a job is enqueued before the last one ends, so the device never starves
)
POLL_S = 0.0005

Encode = Callable[[Scenario, int, Video], Path]
"""Writes the video of one attempt and returns its path relative to the run folder. Runs on a host thread."""

Select = Callable[[Scenario, Sequence[Attempt]], Sequence[Mapping[str, float]]]
"""Selector scores by name of each attempt, from the stored videos. Runs on the thread of the select lane."""

Read = Callable[[Attempt], Video]
"""A stored take. Runs on the thread of the select lane."""


class Scheduler:
    """Runs the refinement loop of every scenario; `run` yields each outcome as soon as it is stored.

    `history` holds what earlier processes stored, by scenario id. `ahead` bounds the scenarios in flight and
    with them the videos in memory: each has at most one take in the making. `select` and `read` are there
    where takes are chosen by looking at them. With `overlap=False` one job is in flight at a time.
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
        read: Read | None = None,
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
        assert policy.judges_every_take or (select and read), "winners are chosen by looking at the takes"
        self._select = select
        self._read = read
        self._history = history or {}
        self._on_lane = on_lane
        self._overlap = overlap
        self._ahead = ahead if overlap else 1
        self._tracks: list[Track] = []
        self._queued: dict[str, list[Task]] = {lane: [] for lane in LANE_JOBS}
        self._active: dict[str, list[Task]] = {lane: [] for lane in LANE_JOBS}
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
                num_in_flight = len(task.fences)
                if not task.poll():
                    self._moved |= len(task.fences) < num_in_flight  # room for the next step
                    continue
                result = job.result()
            self._moved = True
            if track.failure is None:
                self._active[task.lane].remove(task)
                task.land(result, time.perf_counter() - task.started_s)
        return [outcome for track in list(self._tracks) if (outcome := self._close(track)) is not None]

    # The life of one scenario: open, round by round, close.

    def _open(self, scenario: Scenario) -> None:
        past = self._history.get(scenario.id, History())
        track = Track(scenario=scenario, plan=past.plan, attempts=list(past.attempts))
        self._tracks.append(track)
        if track.plan is None:
            start = partial(self._critic.plan, scenario)
            self._queue(CRITIQUE, "plan", track, len(track.attempts), start, self._land_plan)
        self._advance(track)

    def _advance(self, track: Track) -> None:
        """Begin what follows from what is known: so a scenario that was interrupted goes on where it was."""
        if track.busy:
            return
        with self._job_boundary(track):
            prompt = self._policy.sample(track.scenario, track.attempts)
            if prompt is not None:
                last = track.attempts[-1] if track.attempts else None
                self._begin_take(track, prompt, last.round if last else 0, last.sample + 1 if last else 0)
            elif self._select is not None and track.num_scored < len(track.attempts):
                self._begin_scores(track, self._select)
            elif not track.judged:
                self._begin_verdict(track)
            elif track.plan is not None:
                decision = self._policy.next(track.scenario, track.plan, track.attempts)
                if isinstance(decision, Stop):
                    self._choose(track, decision)
                else:
                    self._begin_take(track, decision, track.attempts[-1].round + 1, 0)

    def _land_plan(self, track: Track, reply: PlanReply, seconds: float) -> None:
        track.plan = reply
        self._sink.plan(track.scenario.id, reply)
        self._advance(track)

    def _begin_take(self, track: Track, prompt: Prompt, round_number: int, sample: int) -> None:
        track.busy = True
        take = Take(prompt=prompt, round=round_number, sample=sample)
        start = partial(self._generator.start, track.scenario, prompt)
        self._queue(GENERATE, "generate", track, len(track.attempts), start, partial(self._land_video, take))

    def _land_video(self, take: Take, track: Track, video: Video, seconds: float) -> None:
        take.timings["generate"] = seconds
        index = len(track.attempts)
        work = partial(self._encode, track.scenario, index, video)
        self._queue_host(ENCODE, "encode", track, index, work, partial(self._land_path, take))
        if self._policy.judges_every_take:
            start = partial(self._critic.start, track.scenario, take.prompt, video)
            self._queue(CRITIQUE, "critique", track, index, start, partial(self._land_critique, take))

    def _land_path(self, take: Take, track: Track, path: Path, seconds: float) -> None:
        take.video_path = path
        take.timings["encode"] = seconds
        self._complete(track, take)

    def _land_critique(self, take: Take, track: Track, critique: Critique, seconds: float) -> None:
        take.critique = critique
        take.timings["critique"] = seconds
        self._complete(track, take)

    def _complete(self, track: Track, take: Take) -> None:
        """Store the take once all that it needs is there, then go on."""
        if take.video_path is None or (take.critique is None and self._policy.judges_every_take):
            return
        attempt = Attempt(
            index=len(track.attempts),
            prompt=take.prompt,
            video_path=take.video_path,
            critique=take.critique,
            round=take.round,
            sample=take.sample,
            timings=take.timings,
        )
        self._sink.attempt(track.scenario.id, attempt)
        track.attempts.append(attempt)
        self._go_on(track)

    def _begin_scores(self, track: Track, select: Select) -> None:
        track.busy = True
        work = partial(select, track.scenario, tuple(track.attempts))
        self._queue_host(SELECT, "select", track, track.attempts[-1].index, work, self._land_scores)

    def _land_scores(self, track: Track, scores: Sequence[Mapping[str, float]], seconds: float) -> None:
        with self._job_boundary(track):
            assert all(math.isfinite(v) for entry in scores for v in entry.values()), (
                f"selector gave {scores}"
            )
            pairs = zip(track.attempts, scores, strict=True)
            track.attempts = [replace(attempt, selector_scores=dict(entry)) for attempt, entry in pairs]
            track.num_scored = len(track.attempts)
            self._go_on(track)

    def _begin_verdict(self, track: Track) -> None:
        """The critic sees the stored take, as after an interruption: the takes of a round are not kept."""
        track.busy = True
        assert self._read is not None, "checked at construction"
        index = self._policy.winner(track.attempts)
        work = partial(self._read, track.attempts[index])
        self._queue_host(SELECT, "read", track, index, work, partial(self._land_winner, index))

    def _land_winner(self, index: int, track: Track, video: Video, seconds: float) -> None:
        start = partial(self._critic.start, track.scenario, track.attempts[index].prompt, video)
        self._queue(CRITIQUE, "critique", track, index, start, partial(self._land_verdict, index))

    def _land_verdict(self, index: int, track: Track, critique: Critique, seconds: float) -> None:
        take = track.attempts[index]
        take = replace(take, critique=critique, timings={**take.timings, "critique": seconds})
        self._sink.judged(track.scenario.id, take)
        track.attempts[index] = take
        self._go_on(track)

    def _go_on(self, track: Track) -> None:
        track.busy = False
        self._advance(track)

    def _choose(self, track: Track, decision: Stop) -> None:
        track.stopped = decision.reason
        track.attempts = [replace(a, selector_scores=self._policy.scores(a)) for a in track.attempts]
        track.chosen = self._policy.choose(track.attempts)

    def _close(self, track: Track) -> Outcome | None:
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
        track: Track,
        attempt: int,
        start: Callable[[], Job[Any]],
        land: Callable[[Track, Any, float], None],
    ) -> None:
        task = Task(
            lane=lane, name=name, track=track, attempt=attempt, start=start, land=partial(land, track)
        )
        self._queued[lane].append(task)

    def _queue_host(
        self,
        lane: str,
        name: str,
        track: Track,
        attempt: int,
        work: Callable[[], Any],
        land: Callable[[Track, Any, float], None],
    ) -> None:
        """A job of the host, on whose thread the lane's stream and the span are entered."""
        span = partial(self._recorder.span, lane, track.scenario.id, attempt, name)
        inside = partial(_within, partial(self._on_lane, lane), span, work)
        self._queue(lane, name, track, attempt, partial(self._host.job, inside), land)

    def _span(self, task: Task) -> AbstractContextManager[None]:
        if task.lane in HOST_LANES:
            return nullcontext()
        return self._recorder.span(task.lane, task.track.scenario.id, task.attempt, task.name)

    def _has_room(self, lane: str) -> bool:
        if not self._overlap:
            return not self._all_active()
        return len(self._active[lane]) < LANE_JOBS[lane]

    def _all_active(self) -> list[Task]:
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
    def _job_boundary(self, track: Track) -> Iterator[None]:
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


def _within(
    stream: Callable[[], AbstractContextManager[None]],
    span: Callable[[], AbstractContextManager[None]],
    work: Callable[[], Any],
) -> Any:
    with stream(), span():
        return work()


def _is_sticky(error: Exception) -> bool:
    """Whether the CUDA context is lost, so that every later call of this process would fail as well."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return "AcceleratorError" in names or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
