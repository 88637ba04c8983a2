"""A run of fake models over a real store: what the scheduler's tests and the store's tests drive."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from engine.loop.expected_gain import GainModel
from engine.loop.lanes import CRITIQUE, Threads, make_lanes
from engine.loop.policy import RefinementPolicy
from engine.loop.scenario import Components, ScenarioLoop
from engine.loop.scheduler import Scheduler
from engine.loop.scout_policy import ScoutPolicy
from engine.loop.scouting import Scouts
from engine.machine.streams import HostFence, HostPool
from engine.protocols import Control, Fence, Job
from engine.runs.folder import place_of_scout
from engine.runs.store import RunStore
from engine.runs.trace import HostRecorder
from engine.settings.config import LoopConfig
from engine.types import (
    Attempt,
    Clip,
    Critique,
    Fault,
    Footprint,
    Outcome,
    PhysicsPlan,
    PlanMotion,
    PlanReply,
    Prompt,
    Restarts,
    Scenario,
    ScoutForm,
    Verdict,
    Video,
    VideoSpec,
)

SPEC = VideoSpec(width=4, height=4, fps=8.0, prefix_frames=2, num_frames=2)


class LateFence:
    """Done at the second look, or a later one, as a step on a GPU is."""

    def __init__(self, looks: int = 2) -> None:
        self.looks_left = looks

    def done(self) -> bool:
        self.looks_left -= 1
        return self.looks_left <= 0

    def wait(self) -> None:
        self.looks_left = 0


@dataclass
class FakeJob:
    value: object
    steps_left: int
    error: Exception | None = None
    late: bool = True

    @property
    def stage(self) -> str:
        return "step"

    def launch(self) -> Fence:
        assert self.steps_left > 0
        self.steps_left -= 1
        if self.error is not None and self.steps_left == 0:
            raise self.error
        return LateFence() if self.late else HostFence()

    def result(self) -> object:
        assert self.steps_left == 0
        return self.value


@dataclass
class FakeModels:
    """Generator and critic whose replies depend on the request alone; `fails` maps a job to its error."""

    seed: int = 0
    fails: dict[tuple[str, str], Exception] = field(default_factory=dict)
    calls: list[tuple[str, str, int]] = field(default_factory=list)
    spec: VideoSpec = SPEC
    batches: list[tuple[str, list[tuple[int, int]]]] = field(default_factory=list)
    """Of scouts: scenario, and revision and seed of each."""
    restarts: list[Restarts] = field(default_factory=list)

    def footprint(self, spec: VideoSpec) -> Footprint:
        return Footprint(held={"model": 1}, working={"step": 1})

    def relieve(self) -> None:
        return None

    def _job(self, name: str, scenario: Scenario, revision: int, value: object) -> FakeJob:
        self.calls.append((name, scenario.id, revision))
        steps = random.Random(f"{self.seed}{name}{scenario.id}{revision}").randint(1, 6)
        return FakeJob(value, steps, self.fails.get((name, scenario.id)), late=steps % 2 == 0)

    def plan(self, scenario: Scenario) -> Job[PlanReply]:
        reply = PlanReply(plan=make_plan("left"), raw="", num_tokens=3, seconds=0.5)
        return self._job("plan", scenario, 0, reply)  # type: ignore[return-value]

    def start(
        self,
        scenario: Scenario,
        prompt: Prompt,
        video: Video | None = None,
        plan: PhysicsPlan | None = None,
        *,
        restarts: Restarts | None = None,
    ) -> Job[object]:
        if restarts is not None:
            self.restarts.append(restarts)
        draw = random.Random(f"{scenario.id}{prompt.text}{prompt.seed}")
        if video is None:
            frames = np.full((2, 4, 4, 3), draw.randrange(256), np.uint8)
            return self._job("generate", scenario, prompt.revision, Video(frames=frames, fps=8.0))
        assert int(video.frames[0, 0, 0, 0]) == draw.randrange(256), "the critic saw another take's video"
        assert plan == (prompt.plan or make_plan("left")), "the critic was told another plan"
        score = float(draw.randrange(100))
        critique = Critique(
            verdict=draw.choice([Verdict.ACCEPT, Verdict.REVISE, Verdict.REVISE, Verdict.UNREADABLE]),
            score=score,
            seen=(),
            expected=(),
            findings=(),
            fault=draw.choice(list(Fault)),
            revised=make_plan(draw.choice(["left", "right", "up", "down"])),
            raw="",
            num_tokens=5,
            seconds=0.5,
        )
        return self._job("critique", scenario, prompt.revision, critique)

    def check_scouts(self, form: ScoutForm) -> None: ...

    def finish(
        self, scenario: Scenario, prompt: Prompt, form: ScoutForm, restarts: Restarts | None = None
    ) -> Job[object]:
        return self.start(scenario, prompt, restarts=restarts)

    def scouts(
        self, scenario: Scenario, prompts: Sequence[Prompt], form: ScoutForm, shown: Sequence[int]
    ) -> Job[tuple[Video, ...]]:
        """Company changes a shade by its number, as it may change bits."""
        self.batches.append((scenario.id, [(prompt.revision, prompt.seed) for prompt in prompts]))
        made = []
        for index in shown:
            shade = self._shade(scenario, prompts[index], form) ^ len(prompts)
            made.append(Video(frames=np.full((2, 4, 4, 3), shade, np.uint8), fps=8.0))
        return self._job("scout", scenario, prompts[0].revision, tuple(made))  # type: ignore[return-value]

    @staticmethod
    def _shade(scenario: Scenario, prompt: Prompt, form: ScoutForm) -> int:
        return random.Random(f"{scenario.id}{prompt.text}{prompt.seed}{form.steps}").randrange(256)

    def scout(self, scenario: Scenario, prompt: Prompt, form: ScoutForm) -> Job[Video]:
        shade = self._shade(scenario, prompt, form)
        video = Video(frames=np.full((2, 4, 4, 3), shade, np.uint8), fps=8.0)
        return self._job("scout", scenario, prompt.revision, video)  # type: ignore[return-value]


def make_plan(direction: str) -> PhysicsPlan:
    motion = (PlanMotion(object="ball", direction=direction, speed="slow"),)
    return PhysicsPlan(objects=(), motion=motion, events=(), rest=(), still=("table",))


def scenario(number: int) -> Scenario:
    name = f"{number:04d}_perspective-left"
    clip = Clip(path=Path(f"{name}.mp4"), fps=8.0, num_frames=24, width=4, height=4)
    return Scenario(id=name, text="A ball.", prefix=clip, category="Optics", output_name=f"{name}_ball.mp4")


LOOP = LoopConfig(seed=1, loops=3)


def policy_of(settings: LoopConfig) -> RefinementPolicy:
    return RefinementPolicy(settings=settings, negative="")


def gains(weight: float) -> GainModel:
    """Of a model that expects so many points of any revised take."""
    return GainModel(weights={"revised": weight}, covariance=((0.0,),), deviations=1.0)


SCOUTS = replace(LOOP, method="scout", loops=2, scouts=4, scout_choosers=("brightness",))
BY_SCOUTS = RefinementPolicy(settings=SCOUTS, negative="", gain=gains(5.0))
OF_FINALISTS = RefinementPolicy(
    settings=replace(SCOUTS, scouts=6, finalists=2, scout_form="first"), negative="", gain=gains(5.0)
)
BY_CRITIC = policy_of(LOOP)
BY_LOOKS = policy_of(replace(LOOP, selectors=("brightness",)))
OF_THREE = policy_of(replace(LOOP, selectors=("brightness", "critic_score"), samples=3))
PLAN_FIRST = policy_of(replace(LOOP, first_prompt="plan", selectors=("brightness",), samples=2))
POLICIES = {
    "critic": BY_CRITIC,
    "plan first": PLAN_FIRST,
    "looks": BY_LOOKS,
    "of three": OF_THREE,
    "all judged": policy_of(replace(LOOP, samples=3)),
    "scouts": BY_SCOUTS,
    "finalists": OF_FINALISTS,
    "batches": replace(BY_SCOUTS, settings=replace(SCOUTS, scouts=7, scout_batch=3)),
}

SCENARIOS = [scenario(number) for number in range(1, 6)]


class Quiet:
    def __init__(self) -> None:
        self.last: dict[tuple[str, str], tuple[int, int]] = {}
        self.ids: list[str] = []

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None:
        self.last[lane, scenario_id] = (done, total)

    def finished(self, scenario_ids: Iterable[str]) -> None:
        self.ids += scenario_ids


@dataclass
class Run:
    """A run folder with everything a scheduler needs around the fakes."""

    store: RunStore
    models: FakeModels = field(default_factory=FakeModels)
    policy: RefinementPolicy = BY_CRITIC
    recorder: HostRecorder = field(default_factory=HostRecorder)
    progress: Quiet = field(default_factory=Quiet)

    def encode(self, scene: Scenario, index: int, video: Video) -> Path:
        if ("encode", scene.id) in self.models.fails:
            raise self.models.fails["encode", scene.id]
        path = self.store.video_path(scene.id, index)
        (self.store.folder / path).write_bytes(video.frames.tobytes())
        return path

    def preview(self, scene: Scenario, number: int, video: Video) -> Path:
        path = place_of_scout(self.store.folder, scene.id, number)
        (self.store.folder / path).write_bytes(video.frames.tobytes())
        return path

    @property
    def scouts(self) -> Scouts | None:
        if self.policy.settings.method != "scout":
            return None
        policy = ScoutPolicy(refinement=self.policy)
        return Scouts(
            policy=policy,
            generator=self.models,  # type: ignore[arg-type]
            preview=self.preview,
            compare=self.select,
            differ=lambda looks: np.zeros((1, 1, 1), np.float32),
        )

    def read(self, attempt: Attempt) -> Video:
        stored = np.frombuffer((self.store.folder / attempt.video_path).read_bytes(), np.uint8)
        return Video(frames=stored.reshape(2, 4, 4, 3), fps=8.0)

    def select(self, scene: Scenario, attempts: Iterable[Attempt]) -> list[dict[str, float]]:
        pixels = [(self.store.folder / a.video_path).read_bytes()[0] for a in attempts]
        return [{"brightness": float(value)} for value in pixels]

    def go(
        self,
        *,
        overlap: bool = True,
        ahead: int = 4,
        limit: int | None = None,
        threads: Threads | None = None,
        replies: int = 1,
        source: Callable[[list[ScenarioLoop]], Iterable[ScenarioLoop | None]] = iter,
        control: Control | None = None,
    ) -> dict[str, Outcome]:
        """Run to the end, or stop dead after `limit` outcomes."""
        pending = self.store.pending()
        looks = bool(self.policy.video_selectors)
        by = Components(
            generator=self.models,  # type: ignore[arg-type]
            critic=self.models,  # type: ignore[arg-type]
            policy=self.policy,
            sink=self.store,
            encode=self.encode,
            select=self.select if looks else None,
            read=self.read if looks else None,
            scouts=self.scouts,
        )
        loops = [ScenarioLoop(scenario=s, by=by, past=self.store.history(s.id)) for s in pending]
        with HostPool(2) as host:
            lanes = make_lanes(
                host=host,
                recorder=self.recorder,
                progress=self.progress,
                threads=threads,
                widths={CRITIQUE: replies},
            )
            scheduler = Scheduler(
                source(loops), lanes, progress=self.progress, overlap=overlap, ahead=ahead, control=control
            )
            for number, _ in enumerate(scheduler.run(), start=1):
                if number == limit:
                    break
        return self.store.outcomes()


def without_timings(outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    return {
        name: replace(outcome, attempts=tuple(replace(a, timings={}) for a in outcome.attempts))
        for name, outcome in outcomes.items()
    }
