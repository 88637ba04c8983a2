"""The values that travel through the engine: frozen dataclasses, no behaviour beyond derived properties.

Imports no torch, so that scheduler, policy, store and CLI stay importable and testable in milliseconds.
Legend: T pixel frames . H, W pixels. Times named `_s` are seconds after the switch (the end of the prefix).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX_SECONDS = 3.0
ANSWER_SECONDS = 5.0

Frames = NDArray[np.uint8]
"""uint8 RGB [T, H, W, 3]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A video file and what its header says; the frames are read on demand by `engine.video.files`."""

    path: Path
    fps: float
    num_frames: int
    width: int
    height: int

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """The shape of one generation: `prefix_frames` given, `num_frames` to be generated, at `fps`."""

    width: int
    height: int
    fps: float
    prefix_frames: int
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanObject:
    """Something that is there."""

    name: str  # "ball"
    trait: str  # what tells it apart: "red", "left", "tall"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMotion:
    """How something moves, in words."""

    object: str
    direction: str
    speed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEvent:
    """Something that happens."""

    t: float  # seconds after the switch
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRest:
    """When something comes to rest."""

    object: str
    t: float | None  # seconds after the switch; None: still moving at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicsPlan:
    """What the prefix and physics imply for the next 5 s (step 1 of the loop)."""

    objects: tuple[PlanObject, ...]
    motion: tuple[PlanMotion, ...]
    events: tuple[PlanEvent, ...]  # in the order in which they happen
    rest: tuple[PlanRest, ...]
    still: tuple[str, ...]
    camera: str = "static"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PhysicsPlan:
        """The inverse of `dataclasses.asdict` and JSON; raises KeyError or TypeError on other shapes."""
        return cls(
            objects=tuple(PlanObject(**entry) for entry in data["objects"]),
            motion=tuple(PlanMotion(**entry) for entry in data["motion"]),
            events=tuple(PlanEvent(**entry) for entry in data["events"]),
            rest=tuple(PlanRest(**entry) for entry in data["rest"]),
            still=tuple(data["still"]),
            camera=data["camera"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The question: prefix and sentence. Holds no path to a reference clip, by design."""

    id: str  # "0001_perspective-left"
    text: str
    prefix: Clip
    category: str
    output_name: str  # the file name a submission must have


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Everything of a request that decides the pixels besides the prefix: equal prompts give equal videos."""

    text: str
    negative: str
    seed: int
    revision: int  # 0 is the brief text of the benchmark
    plan: PhysicsPlan | None = None


MOMENTS = ("mean of the first half", "mean of the second half", "standard deviation")
"""What is kept of the hidden states of a take's noisy tokens, which are in the order of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSites:
    """Where in a denoising the hidden states of noisy tokens are taken."""

    steps: tuple[int, ...]  # from 0
    timesteps: tuple[float, ...]  # of these steps, 0 to 1000
    layers: tuple[int, ...]  # behind these blocks, from 0
    width: int  # channels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class States:
    """Pooled hidden states of one take: float32 [steps, layers, MOMENTS, width]."""

    sites: StateSites
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """The generated continuation, without the prefix."""

    frames: Frames
    fps: float
    states: States | None = None  # where the generator was asked to keep them

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps


class Verdict(StrEnum):
    """What the critic says of a take as a whole; UNREADABLE is said of its reply."""

    ACCEPT = "accept"
    REVISE = "revise"
    UNREADABLE = "unreadable"


class Fault(StrEnum):
    """Who is to blame for an inconsistency: one of four prompt faults, the model, or nobody."""

    MISSING_CLUES = "missing physical clues"
    TOO_COMPLEX = "too complex"
    TOO_ABSTRACT = "too abstract"
    WRONG_FACT = "wrong fact"
    MODEL = "model"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the critic found wrong in a take."""

    t: float  # seconds after the switch
    object: str
    issue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Critique:
    """One reading of a take. `score` is None, never a number, when the reply could not be read.

    `revised` is a whole plan also where the reply said only what it changes of another one.
    """

    verdict: Verdict
    score: float | None  # 0 to 100, the critic's own estimate
    seen: tuple[str, ...]
    expected: tuple[str, ...]
    findings: tuple[Finding, ...]
    fault: Fault
    revised: PhysicsPlan | None
    raw: str
    num_tokens: int
    seconds: float
    problem: str | None = None  # why the reply could not be read

    def __post_init__(self) -> None:
        assert self.score is None or math.isfinite(self.score), f"score {self.score} is not a number"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReply:
    """The critic's reading of the prefix; `plan` is None when neither reply nor retry could be read."""

    plan: PhysicsPlan | None
    raw: str
    num_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One take and all that is known about it."""

    index: int  # 0-based; attempt 0 is generated from the brief text
    prompt: Prompt
    video_path: Path  # relative to the run folder
    critique: Critique | None
    round: int = 0  # 0 is the brief text, 1 the plan's prompt, then one for each revision
    sample: int = 0  # place among the takes of its round, which differ in their seed only
    selector_scores: dict[str, float] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage
    device: str | None = None  # the GPU or CPU that made it, by its name; None in stores of older versions
    states: Path | None = None  # the file of its hidden states, for whoever compares takes; not stored


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoutForm:
    """How a scout is made: a look at what a prompt would become, at a part of the price of a take."""

    steps: int  # of denoising
    whole: bool  # a take in so few steps; else the first ones of the take, which can go on from there
    stills: bool = False  # decoded as single pictures, one a latent frame, in place of every frame
    kept: float = 0.0  # share of the steps of its take that a whole scout stands for
    together: int = 1  # of one scenario that are denoised in one forward, at most
    shrink: int = 1  # its sides are those of its take over this


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Restarts:
    """Of a take: its first steps taken again, from fresh noise where its scouts disagree, if it has any."""

    times: int
    steps: int  # the first ones, of which all but one are taken again
    share: float  # of the picture and its time
    differ: NDArray[np.float32]  # [T, y, x] of the take, as fine as you like: how much scouts differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Scout:
    """One look at a candidate. A candidate that is kept has one in each stage, of more steps each time."""

    number: int  # 0-based, in the order in which a scenario's are made
    round: int  # of the take that one of them becomes
    stage: int  # 0 is the first look; with each further one half as many are left
    candidate: int  # place in its round: the same prompt and seed in every stage
    prompt: Prompt
    form: ScoutForm
    video_path: Path  # of what was decoded, relative to the run folder
    scores: dict[str, float] = field(default_factory=dict)  # by chooser, among those of its stage
    place: int | None = None  # among those of its stage, 0 is the best; None: they were not compared yet
    kept: bool = False  # whether it goes on, to the next stage or to a take
    timings: dict[str, float] = field(default_factory=dict)  # seconds by what was done
    device: str | None = None

    def as_attempt(self) -> Attempt:
        """As choosers see it: a take that nobody judged."""
        return Attempt(
            index=self.number,
            prompt=self.prompt,
            video_path=self.video_path,
            critique=None,
            round=self.round,
            sample=self.candidate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorSettings:
    """What selectors that look through a frozen network need; a folder that is None is the bundled one."""

    vjepa: Path | None = None
    image_encoder: Path | None = None
    states_probe: Path | None = None  # there is no bundled one
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a run folder already holds of one scenario; none of it is computed again."""

    plan: PlanReply | None = None
    attempts: tuple[Attempt, ...] = ()
    scouts: tuple[Scout, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The policy's decision to generate no further take, and why."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one scenario: exactly one of `chosen` and `failure` is set."""

    scenario_id: str
    attempts: tuple[Attempt, ...]
    chosen: int | None = None
    failure: str | None = None
    stopped: str | None = None  # why the loop ended: one of the reasons in `engine.loop.policy`
    overruled: Outcome | None = None  # what the loop made of it, where the user chose the take

    def __post_init__(self) -> None:
        assert (self.chosen is None) != (self.failure is None), "an outcome is either chosen or failed"

    @property
    def own(self) -> Outcome:
        """What the loop made of it, whatever the user chose since."""
        return self.overruled or self

    def with_take(self, take: int) -> Outcome:
        """As it stands once the user chose this take; the loop's own take is the loop's outcome again."""
        if take == self.own.chosen:
            return self.own
        return replace(self.own, chosen=take, failure=None, overruled=self.own)


SKIPPED = "skipped"
"""Why the loop of a scenario ended that the user skipped."""


class Wish(StrEnum):
    """What a user may ask of a run that goes on; each of the first two can be taken back."""

    PAUSE = "pause"
    SKIP = "skip"
    UNPAUSE = "unpause"
    UNSKIP = "unskip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One of them, as it was asked."""

    id: str
    at: str  # ISO 8601, UTC
    wish: Wish
    scenario_id: str | None = None  # None: of the whole run


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What holds now of all that was asked."""

    is_paused: bool = False  # the whole run
    held: frozenset[str] = frozenset()  # scenarios that are paused
    skipped: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Memory of one component at one spec in bytes, by what takes it."""

    held: Mapping[str, int]
    """As long as the component is loaded: its models, caches of fixed size, the pools of its graphs."""
    working: Mapping[str, int] = field(default_factory=dict)
    """Beyond that at the peak of each kind of step; a component does one of them at a time."""

    @property
    def held_bytes(self) -> int:
        return sum(self.held.values())

    @property
    def working_bytes(self) -> int:
        return max(self.working.values(), default=0)
