"""The contact sheet of a scenario's scouts: every look, what each chooser said of it, and who went on.

A pure function of what a run holds; decides nothing about scouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from engine.loop.scout_policy import finished_from, why_finished
from engine.report.run_data import Media, Record
from engine.types import Prompt, Scout


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """What one chooser said of a look: its score, and its place among those of the stage, 1 is the best."""

    score: float
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One scout as the page shows it; `take` is the number of the take that it became."""

    scout: Scout
    prompt: str  # in a word or two
    media: Media
    by: Mapping[str, Ranked]
    take: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The looks of one stage, the best one first. `num_kept` of them go on."""

    round: int
    steps: int
    is_whole: bool  # takes in so few steps, not the first steps of takes
    together: int  # that shared a forward, at most
    shrink: int  # what the sides of a take are divided by
    choosers: tuple[str, ...]
    looks: tuple[Look, ...]
    num_kept: int
    is_last: bool  # who goes on from here becomes a take


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """`why`: of each take that a scout became, the words by its number."""

    stages: tuple[Stage, ...]
    why: Mapping[int, str]

    @property
    def num_looks(self) -> int:
        return sum(len(stage.looks) for stage in self.stages)


def contact_sheet(
    record: Record, media: Callable[[Scout], Media], loop: Mapping[str, Any] | None = None
) -> Sheet:
    """Of a scenario of the paper's loop it is empty. `loop`: the settings that its manifest names."""
    takes = {look.number: a.index for a in record.attempts for look in finished_from(record.scouts, a)}
    ordered = sorted(record.scouts, key=lambda scout: (scout.round, scout.stage))
    stages = [list(group) for _, group in groupby(ordered, key=lambda scout: (scout.round, scout.stage))]
    last = {scouts[0].round: scouts[0].stage for scouts in stages}
    return Sheet(
        stages=tuple(
            Stage(
                round=scouts[0].round,
                steps=scouts[0].form.steps,
                is_whole=scouts[0].form.whole,
                together=scouts[0].form.together,
                shrink=scouts[0].form.shrink,
                choosers=tuple(dict.fromkeys(name for scout in scouts for name in scout.scores)),
                looks=tuple(_look(scout, scouts, media(scout), takes) for scout in _by_place(scouts)),
                num_kept=sum(scout.kept for scout in scouts),
                is_last=last[scouts[0].round] == scouts[0].stage,
            )
            for scouts in stages
        ),
        why={
            attempt.index: said
            for attempt in record.attempts
            if (said := why_finished(record.scouts, attempt)) and (said := said + _restarted(loop or {}))
        },
    )


def _restarted(loop: Mapping[str, Any]) -> str:
    """What was taken again of every take that a scout became."""
    times = loop.get("finish_restarts", 0)
    if not times:
        return ""
    where = f"{100 * loop['restart_share']:.0f} % of it, where the last scouts disagree most"
    again = "once more" if times == 1 else f"{times} times more"
    last = loop["restart_steps"]
    steps = f"steps 2 to {last}" if last > 2 else "step 2"
    return f"; {steps} taken {again} from fresh noise in {where}"


def _by_place(scouts: Sequence[Scout]) -> list[Scout]:
    return sorted(scouts, key=lambda scout: (scout.place is None, scout.place or 0, scout.candidate))


def _look(scout: Scout, beside: Sequence[Scout], media: Media, takes: Mapping[int, int]) -> Look:
    by = {
        name: Ranked(score=score, place=1 + sum(other.scores.get(name, score) > score for other in beside))
        for name, score in scout.scores.items()
    }
    return Look(scout=scout, prompt=_words(scout.prompt), media=media, by=by, take=takes.get(scout.number))


def _words(prompt: Prompt) -> str:
    if prompt.plan is None:
        return "the brief"
    return "the plan" if prompt.revision <= 1 else f"revision {prompt.revision}"
