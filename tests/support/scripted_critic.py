"""A critic without a model: it plans at once and revises every take, so that each loop is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.machine.streams import HostFence
from engine.protocols import Fence
from engine.types import (
    Critique,
    Fault,
    Footprint,
    PhysicsPlan,
    PlanMotion,
    PlanReply,
    Prompt,
    Scenario,
    Verdict,
    Video,
    VideoSpec,
)

DIRECTIONS = ("left", "right", "up", "down", "away")


@dataclass
class Ready:
    """A job of one step."""

    value: Any
    steps_left: int = 1

    @property
    def stage(self) -> str:
        return "step"

    def launch(self) -> Fence:
        self.steps_left -= 1
        return HostFence()

    def result(self) -> Any:
        return self.value


class ScriptedCritic:
    """A plan of its own, then a new direction and a better score at each take: every loop is used."""

    notes: Mapping[str, str] = {"chat_template": "scripted"}

    def footprint(self, spec: VideoSpec) -> Footprint:
        return Footprint(held={"model": 1}, working={"step": 1})

    def plan(self, scenario: Scenario) -> Any:
        return Ready(PlanReply(plan=_plan("sideways"), raw="{}", num_tokens=2, seconds=0.1))

    def start(self, scenario: Scenario, prompt: Prompt, video: Video, plan: PhysicsPlan | None) -> Any:
        return Ready(
            Critique(
                verdict=Verdict.REVISE,
                score=10.0 * prompt.revision,
                seen=("a square",),
                expected=(),
                findings=(),
                fault=Fault.MISSING_CLUES,
                revised=_plan(DIRECTIONS[prompt.revision]),
                raw="{}",
                num_tokens=2,
                seconds=0.1,
            )
        )


def _plan(direction: str) -> PhysicsPlan:
    motion = PlanMotion(object="square", direction=direction, speed="slow")
    return PhysicsPlan(objects=(), motion=(motion,), events=(), rest=(), still=())
