"""The loop of one scenario, live without a scheduler: each task is done when it is begun."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fake_run import SCENARIOS, FakeModels, make_plan

from engine.loop.lanes import Task
from engine.loop.policy import RefinementPolicy
from engine.loop.scenario import Components, ScenarioLoop
from engine.types import Attempt, History, Outcome, PlanReply, Scenario, Scout, Video

SCENARIO = SCENARIOS[0]


class Kept:
    """A sink that notes what it is given, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, object]] = []

    def plan(self, scenario_id: str, reply: PlanReply) -> None:
        self.said.append(("plan", reply))

    def scout(self, scenario_id: str, scout: Scout) -> None:
        self.said.append(("scout", scout.number))

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        self.said.append(("ranked", [scout.number for scout in scouts if scout.kept]))

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        self.said.append(("attempt", attempt.index))

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        self.said.append(("judged", attempt.index))

    def outcome(self, outcome: Outcome) -> None:
        self.said.append(("outcome", outcome))


class Made:
    """Components over the fake models, and the frames that were made, held weakly."""

    def __init__(self, policy: RefinementPolicy, models: Any = None) -> None:
        self.sink = Kept()
        self.frames: list[weakref.ref[np.ndarray]] = []
        self.shown: dict[Path, int] = {}
        looks = bool(policy.video_selectors)
        models = models or FakeModels()
        self.by = Components(
            generator=models,
            critic=models,
            policy=policy,
            sink=self.sink,
            encode=self.encode,
            select=self.select if looks else None,
            read=self.read if looks else None,
        )

    def encode(self, scenario: Scenario, index: int, video: Video) -> Path:
        path = Path(f"{index}.mp4")
        self.frames.append(weakref.ref(video.frames))
        self.shown[path] = int(video.frames[0, 0, 0, 0])
        return path

    def select(self, scenario: Scenario, attempts: Sequence[Attempt]) -> list[dict[str, float]]:
        return [{"brightness": float(self.shown[a.video_path])} for a in attempts]

    def read(self, attempt: Attempt) -> Video:
        return Video(frames=np.full((2, 4, 4, 3), self.shown[attempt.video_path], np.uint8), fps=8.0)


def do(task: Task[Any]) -> None:
    """What a lane does with a task, at once."""
    assert task.start is not None
    started, task.start = task.start(), None
    if task.lane in ("encode", "select"):
        task.result = started
    else:
        while started.steps_left:
            started.launch()
        task.result = started.result()
    task.over, task.seconds = True, 1.0
    task.then(task.result)


def live(made: Made, past: History | None = None) -> tuple[ScenarioLoop, list[str]]:
    """The loop run to its outcome, and the names of its tasks in the order in which they were begun."""
    names: list[str] = []

    def begin(task: Task[Any]) -> Task[Any]:
        names.append(task.name)
        do(task)
        return task

    loop = ScenarioLoop(scenario=SCENARIO, by=made.by, past=past or History())
    for waits in loop.run(begin):
        assert all(task.over for task in waits)
    return loop, names


def before_the_plan(made: Made) -> tuple[Iterator[object], list[Task[Any]]]:
    """The loop that waits for its plan, which is not made, and the tasks that it began: the plan first."""
    begun: list[Task[Any]] = []

    def begin(task: Task[Any]) -> Task[Any]:
        begun.append(task)
        if task.name != "plan":
            do(task)
        return task

    steps = ScenarioLoop(scenario=SCENARIO, by=made.by).run(begin)
    waits = next(waits for waits in steps if not all(task.over for task in waits))
    assert waits == [begun[0]] and begun[0].name == "plan"
    return steps, begun


def history(*, scouts: Iterable[Scout] = (), attempts: Iterable[Attempt] = ()) -> History:
    """What a stopped run has kept: these, and the plan that the fake critic makes."""
    plan = PlanReply(plan=make_plan("left"), raw="", num_tokens=3, seconds=0.5)
    return History(plan=plan, scouts=tuple(scouts), attempts=tuple(attempts))
