"""What a report is made of: the facts of a run, as they are read from its folder.

Decides nothing of the page. `bare` leaves out what a model read and wrote, which is most of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.report.scores import Groups
from engine.runs.profile import Tally
from engine.runs.timeline import Totals
from engine.types import Attempt, Outcome, PlanReply, Prompt, Request, Scenario, Scout

_NO_PROMPT = Prompt(text="", negative="", seed=0, revision=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scorer's verdict on a run; all scores are on the scale 0 to 100."""

    physics_iq: float | None
    physics_iq_verified: float | None
    sub_scores: Mapping[str, float]
    by_category: Mapping[str, float]
    cases: Mapping[str, float]  # by scenario id: the submission's clip
    attempts: Mapping[tuple[str, int], float]  # by scenario id and attempt index
    unscored: Mapping[str, str]  # reason by scenario id
    groups: Groups = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A video on the page: a data URI or a path relative to the run; `note` says why there is none."""

    src: str | None
    embedded: bool
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One scenario and what the run holds of it; `outcome` is None while it is unfinished."""

    scenario: Scenario
    attempts: tuple[Attempt, ...]
    outcome: Outcome | None
    plan: PlanReply | None = None  # the critic's reading of the prefix
    scouts: tuple[Scout, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """All that the page shows, apart from the bytes of the videos."""

    run: Path
    records: Sequence[Record]
    scores: Scores | None = None
    timeline: str | None = None  # SVG
    totals: Totals | None = None
    tally: Tally | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    has_stale_scores: bool = False  # of takes that the run no longer has, or that it had not yet
    changed_takes: Set[tuple[str, int]] = frozenset()  # whose file is not the one that was stored
    scout_digests: Mapping[tuple[str, int], str] = field(default_factory=dict)  # sha256 as they were stored
    requests: Sequence[Request] = ()  # of the user, while the run went on
    watch: str | None = None  # where the page of the run is that goes on
    prefix_digests: Mapping[str, str] = field(default_factory=dict)  # sha256 as the run noted it, by scenario

    @property
    def unfinished(self) -> frozenset[str]:
        """Ids of the scenarios that have not ended."""
        return frozenset(record.scenario.id for record in self.records if record.outcome is None)


def bare(data: ReportData) -> ReportData:
    """Without what the model read and wrote: what plots and tables need of thousands of scenarios at once."""
    return replace(data, records=tuple(bare_record(record) for record in data.records))


def bare_record(record: Record) -> Record:
    attempts = tuple(
        replace(
            attempt,
            prompt=_NO_PROMPT,
            critique=None
            if attempt.critique is None
            else replace(attempt.critique, seen=(), expected=(), findings=(), revised=None, raw=""),
        )
        for attempt in record.attempts
    )
    outcome, own = record.outcome, None
    if outcome is not None:
        own = None if outcome.overruled is None else replace(outcome.overruled, attempts=())
        outcome = replace(outcome, attempts=(), overruled=own)
    scouts = tuple(replace(scout, prompt=_NO_PROMPT) for scout in record.scouts)
    return replace(record, attempts=attempts, outcome=outcome, plan=None, scouts=scouts)
