"""What the report shows, derived from what a run holds.

Pure functions of `ReportData` and of the video files it names; they know no store and no scorer. Of a large
run the records are read as they are asked for, so each function here goes through them once, in order.
"""

from __future__ import annotations

import base64
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from engine.loop.policy import CRITIC_SCORE, choose_take
from engine.report.charts import Estimate, Series, bar_chart, counts_chart, estimate, line_chart
from engine.report.contact_sheet import Sheet, contact_sheet
from engine.report.run_data import Media as Media
from engine.report.run_data import Record, ReportData
from engine.report.scores import why_missing
from engine.report.word_diff import Diff, word_diff
from engine.runs.choices import command_for
from engine.runs.requests import holds
from engine.types import SKIPPED, Asked, Attempt, Outcome, PlanReply, Scenario, Scout, Verdict
from engine.video.files import read_note
from engine.words import command_line
from kernels.files import file_digest

MAX_EMBEDDED_BYTES = 4 << 20
"""A single file above this is linked, whatever the number of scenarios."""

SCALE = (0.0, 100.0)
"""Of every score on the page; their differences lie within the same either way."""

TIMELINE_PX = 1140
"""Width for which the picture of the lanes is drawn."""

_CHANGED = "not as it was stored"


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One attempt as the page shows it; `diff` is against the first take of the round before, `against`."""

    attempt: Attempt
    place: str  # in its round, empty where each round has one take
    media: Media
    chosen: bool
    critic_score: float | None
    true_score: float | None
    note: str | None  # all black, frozen, or not what was judged and scored
    diff: Diff
    against: int | None
    new_seed: bool
    command: str | None  # to type to choose this take, or to undo the user's choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario in the table; `first` and `final` are in the page's measure."""

    scenario: Scenario
    anchor: str
    num_takes: int
    num_scouts: int
    chosen: int | None
    users: bool  # the user chose the take
    failure: str | None
    again: str | None  # what to type to have a failed one made after all
    stopped: str
    first: float | None
    final: float | None
    missing: tuple[str, str]  # why `first` and `final` are None, where they are
    seconds: float

    @property
    def gain(self) -> float | None:
        return None if self.first is None or self.final is None else self.final - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One scenario as the page shows it: all of it."""

    row: Row
    plan: PlanReply | None
    prefix: Media
    takes: tuple[Take, ...]
    sheet: Sheet
    stages: tuple[str, ...]
    selectors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The headline numbers, over the scenarios that have a chosen take."""

    measure: str
    first: Estimate | None
    final: Estimate | None
    gain: Estimate | None
    num_chosen: int
    num_failed: int
    num_unfinished: int
    num_takes: int
    num_scouts: int
    num_critiques: int
    num_unreadable: int
    one_take: bool
    """No scenario has another take than its first."""


def measured(data: ReportData) -> str:
    """Name of the score that plots and tables show: the scorer's where it judged takes, else the critic's."""
    return "Verified score" if data.scores is not None and data.scores.attempts else "critic's score"


def score_of(data: ReportData, scenario_id: str, attempt: Attempt) -> float | None:
    """The page's measure of one take; None when it was not scored or the critique could not be read."""
    if data.scores is not None and data.scores.attempts:
        return data.scores.attempts.get((scenario_id, attempt.index))
    return None if attempt.critique is None else attempt.critique.score


def champion(record: Record, num_takes: int, selectors: Sequence[str] = (CRITIC_SCORE,)) -> Attempt | None:
    """The take that would be chosen had the loop ended after its first `num_takes`.

    That is the chosen one once it exists, and before that the policy's choice among the takes so far.
    """
    so_far = record.attempts[:num_takes]
    chosen = None if record.outcome is None else record.outcome.chosen
    if not so_far:
        return None
    if chosen is not None and chosen < len(so_far):
        return so_far[chosen]
    return so_far[choose_take(so_far, selectors)]


def _stopped(record: Record, asked: Asked) -> str:
    """Why the loop of a scenario ended, or what became of it so far."""
    name = record.scenario.id
    if record.outcome is None:
        return "to be skipped" if name in asked.skipped else "paused" if name in asked.held else "unfinished"
    own = record.outcome.own
    return "failed" if own.failure is not None and own.stopped != SKIPPED else own.stopped or "not recorded"


def build_rows(data: ReportData) -> tuple[Row, ...]:
    """One a record, in their order."""
    asked = holds(data.requests)
    return tuple(build_row(data, record, asked) for record in data.records)


def build_row(data: ReportData, record: Record, asked: Asked) -> Row:
    """`asked`: what holds of the requests of `data`."""
    outcome = record.outcome
    first, final = _ends(data, record)
    return Row(
        scenario=record.scenario,
        anchor="scene-" + re.sub(r"[^A-Za-z0-9_-]", "-", record.scenario.id),
        num_takes=len(record.attempts),
        num_scouts=len(record.scouts),
        chosen=None if outcome is None else outcome.chosen,
        users=outcome is not None and outcome.overruled is not None,
        failure=None if outcome is None else outcome.failure,
        again=_again(data.run, outcome),
        stopped=_stopped(record, asked),
        first=first,
        final=final,
        missing=_missing(data, record),
        seconds=sum(sum(attempt.timings.values()) for attempt in record.attempts)
        + sum(sum(scout.timings.values()) for scout in record.scouts),
    )


def _again(run: Path, outcome: Outcome | None) -> str | None:
    if outcome is None or outcome.failure is None:
        return None
    if outcome.own.stopped == SKIPPED:
        return command_line("retake", "skip", run, outcome.scenario_id, "--undo")
    return command_line("retake", "resume", run)


def embedded_of(rows: Sequence[Row], max_embedded: int) -> frozenset[str]:
    """The scenarios whose videos go into the page: those of the lowest and of the highest gain."""
    scored = sorted((row.gain is not None, row.gain or 0.0, row.scenario.id) for row in rows)
    ranked = [name for *_, name in scored]  # unscored first
    if len(ranked) <= max_embedded:
        return frozenset(ranked)
    half = max_embedded // 2
    return frozenset(ranked[:half] + ranked[len(ranked) - (max_embedded - half) :])


def build_scenes(data: ReportData, *, max_embedded: int) -> tuple[Scene, ...]:
    """The scenes in the order of the records; the videos of at most `max_embedded` of them as data URIs."""
    embedded = embedded_of(build_rows(data), max_embedded)
    return tuple(build_scene(data, record, record.scenario.id in embedded) for record in data.records)


def _ends(data: ReportData, record: Record) -> tuple[float | None, float | None]:
    """The measure of the first take and of the chosen one."""
    first, final = _end_takes(record)
    name = record.scenario.id
    return (
        None if first is None else score_of(data, name, first),
        None if final is None else score_of(data, name, final),
    )


def _end_takes(record: Record) -> tuple[Attempt | None, Attempt | None]:
    chosen = None if record.outcome is None else record.outcome.chosen
    first, final = (next((a for a in record.attempts if a.index == i), None) for i in (0, chosen))
    return first, final


def build_scene(data: ReportData, record: Record, embed: bool) -> Scene:
    """`embed`: the videos as data URIs."""
    scenario, outcome = record.scenario, record.outcome
    takes = []
    before: Attempt | None = None  # the first take of the round before, and within a round of this one
    several = any(attempt.sample for attempt in record.attempts)
    for attempt in sorted(record.attempts, key=lambda attempt: attempt.index):
        takes.append(
            Take(
                attempt=attempt,
                place=f"round {attempt.round}, sample {attempt.sample}" if several else "",
                media=_media(data.run / attempt.video_path, data.run, embed),
                chosen=outcome is not None and outcome.chosen == attempt.index,
                critic_score=None if attempt.critique is None else attempt.critique.score,
                true_score=None
                if data.scores is None
                else data.scores.attempts.get((scenario.id, attempt.index)),
                note=_CHANGED
                if (scenario.id, attempt.index) in data.changed_takes
                else read_note(data.run / attempt.video_path),
                diff=() if before is None else word_diff(before.prompt.text, attempt.prompt.text),
                against=None if before is None else before.index,
                new_seed=before is not None and before.prompt.seed != attempt.prompt.seed,
                command=command_for(data.run, outcome, attempt.index),
            )
        )
        before = attempt if attempt.sample == 0 else before
    return Scene(
        row=build_row(data, record, holds(data.requests)),
        plan=record.plan,
        prefix=_prefix(data, scenario, embed),
        takes=tuple(takes),
        sheet=contact_sheet(
            record,
            lambda scout: _preview(data, scenario, scout, embed),
            data.manifest.get("config", {}).get("loop", {}),
        ),
        stages=tuple(dict.fromkeys(stage for take in takes for stage in take.attempt.timings)),
        selectors=tuple(dict.fromkeys(name for take in takes for name in take.attempt.selector_scores)),
    )


def _missing(data: ReportData, record: Record) -> tuple[str, str]:
    scored = data.scores is not None and bool(data.scores.attempts)
    first, final = (why_missing(take, scored=scored) for take in _end_takes(record))
    return first, final


def _prefix(data: ReportData, scenario: Scenario, embed: bool) -> Media:
    """Put into the page only if it is what the run saw: a foreign run could name any file of this machine."""
    return _media(scenario.prefix.path, data.run, embed and prefix_is_seen(data, scenario))


def _preview(data: ReportData, scenario: Scenario, scout: Scout, embed: bool) -> Media:
    path, digest = data.run / scout.video_path, data.scout_digests.get((scenario.id, scout.number))
    if path.is_file() and digest is not None and file_digest(path) != digest:
        return Media(src=None, embedded=False, note=_CHANGED)
    return _media(path, data.run, embed)


def prefix_is_seen(data: ReportData, scenario: Scenario) -> bool:
    """Whether its clip is the one that the run continued."""
    path, digest = scenario.prefix.path, data.prefix_digests.get(scenario.id)
    return digest is not None and path.is_file() and file_digest(path) == digest


def _media(path: Path, run: Path, embed: bool) -> Media:
    if not path.is_file():
        return Media(src=None, embedded=False, note=f"The file {path.name} is missing.")
    if embed and path.stat().st_size <= MAX_EMBEDDED_BYTES:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        return Media(src=f"data:video/mp4;base64,{data}", embedded=True)
    return Media(src=quote(Path(os.path.relpath(path, run)).as_posix()), embedded=False)


def summarize(data: ReportData) -> Summary:
    """Headline numbers; the gain is paired, over the scenarios where both takes are scored."""
    ends = [_ends(data, record) for record in data.records]
    attempts = [attempt for record in data.records for attempt in record.attempts]
    critiques = [attempt.critique for attempt in attempts if attempt.critique is not None]
    both = [(first, final) for first, final in ends if first is not None and final is not None]
    return Summary(
        measure=measured(data),
        first=estimate([first for first, _ in both], within=SCALE),
        final=estimate([final for _, final in both], within=SCALE),
        gain=estimate([final - first for first, final in both], within=(-SCALE[1], SCALE[1])),
        num_chosen=sum(r.outcome is not None and r.outcome.failure is None for r in data.records),
        num_failed=sum(r.outcome is not None and r.outcome.failure is not None for r in data.records),
        num_unfinished=sum(record.outcome is None for record in data.records),
        num_takes=len(attempts),
        num_scouts=sum(len(record.scouts) for record in data.records),
        num_critiques=len(critiques),
        num_unreadable=sum(critique.verdict is Verdict.UNREADABLE for critique in critiques),
        one_take=bool(attempts) and all(len(record.attempts) < 2 for record in data.records),
    )


def loop_chart(data: ReportData) -> Markup:
    """Mean by take: of these takes, and of the champions (a scenario that stopped keeps its own).

    Takes go by their numbers, from which a scenario that began with the plan has a lower one for the same
    round; by rounds where a round has several takes.
    """
    several = any(a.sample for record in data.records for a in record.attempts)
    seen = {_place(a, several) for record in data.records for a in record.attempts} or {0}
    latest, best = [], []
    selectors = data.manifest.get("config", {}).get("loop", {}).get("selectors", (CRITIC_SCORE,))
    alive = [r for r in data.records if r.outcome is None or r.outcome.failure is None]
    places = range(min(seen), 1 + max(seen))
    for place in places:
        made = [[a for a in r.attempts if _place(a, several) <= place] for r in alive]
        kept = [(r, champion(r, len(so_far), selectors)) for r, so_far in zip(alive, made, strict=True)]
        takes = [(r, a) for r in data.records for a in r.attempts if _place(a, several) == place]
        latest.append(_mean(data, takes))
        best.append(_mean(data, [(record, take) for record, take in kept if take is not None]))
    series = [
        Series(name="this take", css="first", points=tuple(latest)),
        Series(name="chosen so far", css="chosen", points=tuple(best)),
    ]
    labels = [f"{'round' if several else 'take'} {place}" for place in places]
    return line_chart(labels, series, title=f"Mean {measured(data)} by loop")


def _place(attempt: Attempt, several: bool) -> int:
    return attempt.round if several else attempt.index


def _mean(data: ReportData, takes: Sequence[tuple[Record, Attempt]]) -> Estimate | None:
    scores = [score_of(data, record.scenario.id, attempt) for record, attempt in takes]
    return estimate([score for score in scores if score is not None], within=SCALE)


def _category_chart(data: ReportData) -> Markup:
    categories = sorted({record.scenario.category for record in data.records})

    both: dict[str, list[tuple[float, float]]] = {category: [] for category in categories}
    for record in data.records:
        first, final = _ends(data, record)
        if first is not None and final is not None:
            both[record.scenario.category].append((first, final))
    series = [
        Series(
            name=name,
            css=css,
            points=tuple(estimate([pair[end] for pair in both[c]], within=SCALE) for c in categories),
        )
        for end, name, css in ((0, "first take", "first"), (1, "chosen take", "chosen"))
    ]
    return bar_chart(categories, series, title=f"Mean {measured(data)} by category")


def build_charts(data: ReportData) -> dict[str, Markup]:
    """The four plots by name: loops, categories, stops, picks."""
    asked = holds(data.requests)
    stops = Counter(_stopped(record, asked) for record in data.records)
    picks = Counter(
        record.outcome.chosen
        for record in data.records
        if record.outcome is not None and record.outcome.chosen is not None
    )
    last = max((a.index for record in data.records for a in record.attempts), default=0)
    return {
        "loops": loop_chart(data),
        "categories": _category_chart(data),
        "stops": counts_chart(stops.most_common(), title="Why the loop stopped", css="neutral"),
        "picks": counts_chart(
            [(f"take {index}", picks[index]) for index in range(last + 1)],
            title="Which take was chosen",
            css="chosen",
        ),
    }
