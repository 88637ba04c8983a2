"""What the scheduler and the composition root ask of a component. One verb each, no base classes.

`launch` enqueues work on a GPU and does one step on a CPU. It never synchronizes. A component's jobs may be
called on another thread than its other methods, one call at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from engine.types import (
    Asked,
    Attempt,
    Critique,
    Footprint,
    Outcome,
    PhysicsPlan,
    PlanReply,
    Prompt,
    Restarts,
    Scenario,
    Scout,
    ScoutForm,
    StateSites,
    Stop,
    Video,
    VideoSpec,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Fence(Protocol):
    """Completion of launched work. `done` never blocks; `wait` blocks the calling host thread."""

    def done(self) -> bool: ...

    def wait(self) -> None: ...


class Job(Protocol[T_co]):
    """A resumable piece of work, cut into steps of a few to a few hundred milliseconds.

    The scheduler may launch a step before the fence of the last one has passed (at most two are in flight).
    `steps_left` may change with each launch; the job is over when it is 0 and every fence has passed.
    """

    @property
    def steps_left(self) -> int: ...

    @property
    def stage(self) -> str:
        """What the next launch does, in a word or two: "denoise step"."""
        ...

    def launch(self) -> Fence: ...

    def result(self) -> T_co: ...


class Generator(Protocol):
    """Makes takes: continues the prefix of a scenario as a prompt says."""

    @property
    def spec(self) -> VideoSpec:
        """Of every take it makes, and of the prefix it reads."""
        ...

    @property
    def negative_prompt(self) -> str:
        """What the model folder recommends; used where the user gives none."""
        ...

    @property
    def notes(self) -> Mapping[str, str]:
        """Which kernels and formats were chosen and why, for the manifest."""
        ...

    def footprint(self, spec: VideoSpec) -> Footprint:
        """Device memory at `spec`, before a weight is read."""
        ...

    def relieve(self) -> str | None:
        """Where the device had no memory: take less from the next job on, and say how; None: no more."""
        ...

    def start(self, scenario: Scenario, prompt: Prompt) -> Job[Video]:
        """One take without its prefix: uint8 RGB [spec.num_frames, spec.height, spec.width, 3] at `spec.fps`.

        Equal prompts give equal takes. Raises VideoError when the prefix cannot be read; its job raises
        NotFinite for a take that holds no numbers.
        """
        ...


class ScoutingGenerator(Generator, Protocol):
    """One that can also show, at a part of the price, what a take would become."""

    def start(self, scenario: Scenario, prompt: Prompt, *, restarts: Restarts | None = None) -> Job[Video]:
        """As of any generator. With `restarts`, which are given where the user asks for them and
        `check_restarts` has allowed it, its first steps are taken again where these say."""
        ...

    def check_scouts(self, form: ScoutForm) -> None:
        """ConfigError where it has no such scouts."""
        ...

    def scout(self, scenario: Scenario, prompt: Prompt, form: ScoutForm) -> Job[Video]:
        """As `start`, in `form.steps` denoise steps; of stills, at a rate of their own.

        From the noise of the take. Whatever scouts were made before, `start` gives the same take.
        """
        ...

    def footprint_of_scouts(self, spec: VideoSpec, form: ScoutForm) -> Footprint:
        """As `footprint`, with scouts of this form; asked where several share a forward or are smaller."""
        ...

    def scouts(
        self, scenario: Scenario, prompts: Sequence[Prompt], form: ScoutForm, shown: Sequence[int]
    ) -> Job[tuple[Video, ...]]:
        """Those of all `prompts`, which share each forward, at most `form.together`; decoded are the `shown`
        ones, in their order. Equal prompts in equal company give equal scouts. Asked of forms with
        `form.together` above 1 alone."""
        ...

    def finish(
        self, scenario: Scenario, prompt: Prompt, form: ScoutForm, restarts: Restarts | None = None
    ) -> Job[Video]:
        """The take that a scout of this form becomes, whether or not that was made before.

        That of `start`, unless `form.kept`: then it begins where the scout ended, as noisy as such a take is
        after that share of its steps. `restarts` as for `start`.
        """
        ...

    def check_restarts(self, steps: int) -> None:
        """ConfigError where takes cannot take their first `steps` again."""
        ...


class ObservedGenerator(Generator, Protocol):
    """One of a family that can keep hidden states of its takes."""

    @property
    def sites(self) -> StateSites | None:
        """Where in a denoising they are taken; they are then in `Video.states`. None: none are kept, and
        nothing is done for them. Kept or not, takes are bit for bit the same."""
        ...


class Critic(Protocol):
    """Reads a prefix and says what must follow; reads a take and says what is wrong with it."""

    @property
    def notes(self) -> Mapping[str, str]:
        """What of the folder was used where it leaves a choice, for the manifest."""
        ...

    def footprint(self, spec: VideoSpec) -> Footprint:
        """Device memory where takes are of `spec`, before a weight is read."""
        ...

    def plan(self, scenario: Scenario) -> Job[PlanReply]:
        """From prefix and text alone. Raises VideoError when the prefix cannot be read."""
        ...

    def start(
        self, scenario: Scenario, prompt: Prompt, video: Video, plan: PhysicsPlan | None
    ) -> Job[Critique]:
        """Of one take. A reply that cannot be read is the verdict UNREADABLE, never an error.

        plan: the one that is to be corrected; None where the prefix gave no readable one.
        """
        ...


class Selector(Protocol):
    """Scores each take of one scenario, higher is better. Target-free: it never sees a reference."""

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """A number for each of `takes`, in their order; minus infinity where it has none.

        takes: decoded when they are looked at, uint8 RGB [T, H, W, 3]. attempts: what else is known of each.
        """
        ...


class Dataset(Protocol):
    def scenarios(self, fps: float) -> Sequence[Scenario]: ...

    def check(self, scenario: Scenario) -> None:
        """Raise VideoError when this scenario's prefix cannot be used; the others go on."""
        ...


class Policy(Protocol):
    """The refinement loop as pure functions of what has happened so far.

    `sample` needs no plan, so round 0 is generated while the critic still reads the prefix; `next` is asked
    once the plan is there and the last round is complete and critiqued.
    """

    @property
    def restarts(self) -> Restarts | None:
        """What `ScoutingGenerator.start` is given for takes that no scouts were made of; None: nothing."""
        ...

    @property
    def begins_with_plan(self) -> bool:
        """Whether the loop waits for the plan, and its first take is that of `opening`."""
        ...

    def opening(self, scenario: Scenario, plan: PlanReply) -> tuple[int, Prompt]:
        """Number of the first round, and its prompt."""
        ...

    @property
    def judges_every_take(self) -> bool:
        """Whether each take is critiqued, or the `winner` of each round only."""
        ...

    def sample(self, scenario: Scenario, attempts: Sequence[Attempt]) -> Prompt | None:
        """The next take of the round under way, which with no attempts is round 0; None when it is full."""
        ...

    def winner(self, attempts: Sequence[Attempt]) -> int:
        """Which take of the last round is critiqued, by the scores of the selectors."""
        ...

    def next(self, scenario: Scenario, plan: PlanReply, attempts: Sequence[Attempt]) -> Prompt | Stop: ...

    def scored(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """The attempts with every score that `choose` goes by."""
        ...

    def choose(self, attempts: Sequence[Attempt]) -> int: ...

    def no_choice(self, attempts: Sequence[Attempt]) -> str | None:
        """Why none is to be chosen; None where `choose` is to be asked."""
        ...


class Denoiser(Protocol):
    """One velocity prediction. `branch` is "cond", "uncond" or "both", passed explicitly, never counted."""

    def prepare(self, text: Any) -> Any:
        """Text embeddings [B, L, D] -> what a call takes as `text`; done once per job, not once per step."""
        ...

    def __call__(self, latents: Any, timestep: Any, text: Any, *, branch: str) -> Any: ...


class Sink(Protocol):
    """Where finished work goes, at once and crash-safe."""

    def plan(self, scenario_id: str, reply: PlanReply) -> None: ...

    def scout(self, scenario_id: str, scout: Scout) -> None:
        """One that was not compared yet."""
        ...

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        """All of one stage, with scores and places."""
        ...

    def attempt(self, scenario_id: str, attempt: Attempt) -> None: ...

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        """An attempt that was handed over without its critique has it now."""
        ...

    def outcome(self, outcome: Outcome) -> None: ...


class Host(Protocol):
    """Turns a blocking host call into a job of one step, so that the host lanes are like the others."""

    def job(self, work: Callable[[], T]) -> Job[T]: ...


Calls = Callable[[Callable[[], None]], Future[None]]
"""Has a function called, by a host thread or at once; the future holds its error."""


class Recorder(Protocol):
    """Notes when one step of a lane ran, or host work around it (`engine.runs.trace.HOST_LANES`).

    Thread-safe; entering and leaving never wait for the device."""

    def span(
        self, lane: str, scenario_id: str, attempt: int, name: str, stage: str = ""
    ) -> AbstractContextManager[None]: ...


class Control(Protocol):
    """What the user asks of a run while it goes on."""

    def look(self) -> Asked:
        """The same object until something else is asked.

        Called at every turn of the scheduler, so it costs a look at the clock, and a few times a second more.
        """
        ...


class Progress(Protocol):
    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None: ...

    def finished(self, scenario_ids: Iterable[str]) -> None: ...


class Display(Progress, Sink, Protocol):
    """What a person sees while a run goes on: progress, and each result once it is stored."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
