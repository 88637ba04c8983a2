"""What the driver gives a worker, and what a worker sends back: values that are pickled on their way.

A worker's log records are sent as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import LogRecord
from pathlib import Path
from typing import Any

from engine.errors import RetakeError
from engine.runs.trace import Span
from engine.settings.config import RunConfig
from engine.types import Attempt, History, Outcome, PlanReply, Scenario, Scout

ClipFiles = tuple[bytes, bytes | None]
"""An mp4 file, and the file of hidden states beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One scenario to work at. `videos` are the stored takes of its history, by number, `previews` those of
    scouts that are still to be compared; each with the file of its hidden states, if it has one."""

    scenario: Scenario
    past: History
    videos: Mapping[int, ClipFiles]
    previews: Mapping[int, ClipFiles]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Models are loaded. `facts` is the manifest that a run of this worker alone would have.

    `config` has what was changed so that the models fit, in words in `changed`.

    Where weights were not digested, since another worker of the node does it, `facts` has no digests.
    """

    scenarios: tuple[Scenario, ...]
    refused: Mapping[str, str]
    facts: Mapping[str, Any]
    config: RunConfig
    changed: Sequence[str]
    told: Sequence[str]
    device: str | None
    warning: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    scenario_id: str
    reply: PlanReply


@dataclass(frozen=True, slots=True, kw_only=True)
class Scouted:
    """A scout with its preview, an mp4 file, and the file of its hidden states, if it has one."""

    scenario_id: str
    scout: Scout
    video: bytes
    states: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    scenario_id: str
    scouts: tuple[Scout, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An attempt with its video, an mp4 file, and the file of its hidden states, if it has one."""

    scenario_id: str
    attempt: Attempt
    video: bytes
    states: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    scenario_id: str
    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """Spans on a clock that starts with the message `Ready`."""

    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUsed:
    """Entries of a manifest, as `engine.build.used_memory` makes them."""

    entries: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    lane: str
    scenario_id: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Said by the driver's side of a worker, which is started again unless it is lost `for_good`. `error`:
    the one of ours that ended it."""

    why: str
    error: RetakeError | None
    for_good: bool


Made = Planned | Scouted | Ranked | Taken | Judged | Ended
"""Of the scenarios, in the order in which they come."""
Message = Ready | Made | Opened | Worked | MemoryUsed | Step | LogRecord
