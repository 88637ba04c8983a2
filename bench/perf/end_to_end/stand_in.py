"""A critic that has its two replies at once: what a run of takes alone needs, prompts and all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine.critics.qwen_vl.schema import parse_critique, parse_plan
from engine.machine.streams import HostFence
from engine.protocols import Fence
from engine.types import Critique, Footprint, PhysicsPlan, PlanReply, Prompt, Scenario, Video, VideoSpec

T = TypeVar("T")


@dataclass(slots=True)
class Answered(Generic[T]):
    """A job of one step that does nothing."""

    value: T
    steps_left: int = 1

    @property
    def stage(self) -> str:
        return "step"

    def launch(self) -> Fence:
        self.steps_left -= 1
        return HostFence()

    def result(self) -> T:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class InstantCritic:
    """Gives the texts `planned` and `judged` to every question, of no token and in no time."""

    planned: str
    judged: str

    @property
    def notes(self) -> Mapping[str, str]:
        return {}

    def plan(self, scenario: Scenario) -> Answered[PlanReply]:
        plan = parse_plan(self.planned)
        assert plan is not None, "the fixed reply holds a plan"
        return Answered(PlanReply(plan=plan, raw=self.planned, num_tokens=0, seconds=0.0))

    def start(
        self, scenario: Scenario, prompt: Prompt, video: Video, plan: PhysicsPlan | None
    ) -> Answered[Critique]:
        return Answered(parse_critique(self.judged, num_tokens=0, seconds=0.0))

    def footprint(self, spec: VideoSpec) -> Footprint:
        return Footprint(held={})
