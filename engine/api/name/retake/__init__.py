"""Retake from Python: plan, take, critique, the loop, run folders, scores. See docs/api.md.

The import name of what `engine.api` does; the tree of this project has no folder `retake` of its own. What is
not named in `__all__`, here or elsewhere in the engine, may change at any time.
"""

from __future__ import annotations

from engine.api.loops import refine
from engine.api.models import load_critic, load_generator
from engine.api.runs import (
    RunRecord,
    ScenarioRecord,
    choose_again,
    read_run,
    report,
    resume,
    run,
)
from engine.api.scores import Scores, score
from engine.api.takes import (
    OneStep,
    critique,
    finish,
    open_scenarios,
    plan,
    prompt,
    read_prefix,
    scenario,
    take,
    write_video,
)
from engine.errors import (
    ConfigError,
    DatasetError,
    DeviceError,
    DoesNotFit,
    ModelError,
    NotFinite,
    RetakeError,
    RunLost,
    ScorerError,
    StoreError,
    VideoError,
)
from engine.protocols import Critic, Generator, Job, Selector
from engine.settings.config import LoopConfig
from engine.types import (
    Attempt,
    Clip,
    Critique,
    Fault,
    Finding,
    Footprint,
    Outcome,
    PhysicsPlan,
    PlanReply,
    Prompt,
    Scenario,
    Scout,
    ScoutForm,
    Verdict,
    Video,
    VideoSpec,
)

__all__ = [
    "Attempt",
    "Clip",
    "ConfigError",
    "Critic",
    "Critique",
    "DatasetError",
    "DeviceError",
    "DoesNotFit",
    "Fault",
    "Finding",
    "Footprint",
    "Generator",
    "Job",
    "LoopConfig",
    "ModelError",
    "NotFinite",
    "OneStep",
    "Outcome",
    "PhysicsPlan",
    "PlanReply",
    "Prompt",
    "RetakeError",
    "RunLost",
    "RunRecord",
    "Scenario",
    "ScenarioRecord",
    "ScorerError",
    "Scores",
    "Scout",
    "ScoutForm",
    "Selector",
    "StoreError",
    "Verdict",
    "Video",
    "VideoError",
    "VideoSpec",
    "choose_again",
    "critique",
    "finish",
    "load_critic",
    "load_generator",
    "open_scenarios",
    "plan",
    "prompt",
    "read_prefix",
    "read_run",
    "refine",
    "report",
    "resume",
    "run",
    "scenario",
    "score",
    "take",
    "write_video",
]
