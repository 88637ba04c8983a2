"""Attempt sets of runs as rows of a results table: one take of every scenario, by loop round and sample.

Chooses nothing and prints nothing. Every row covers the same scenarios: one that a run lacks or that has an
unscored take counts in no row, and the board says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.scored_run import ScoredRun
from bench.scoring.case_record import CaseRecord, original_scores, verified_scores
from engine.errors import ConfigError, ScorerError
from engine.types import Attempt

ORIGINAL, VERIFIED = "physics_iq", "physics_iq_verified"
SCORES = (ORIGINAL, VERIFIED)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One take of one run; `run` is the run's position on the board."""

    run: int
    scenario_id: str
    index: int


Picks = Mapping[str, Take]
"""By scenario id: a whole submission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. `picks` holds a submission for each seed, by the score that it is for.

    The two differ only in an oracle, which chooses by the very score that is shown.
    """

    name: str
    picks: Mapping[str, tuple[Picks, ...]]
    seeds: tuple[int, ...] = ()  # one for each submission; empty where a submission mixes several
    loop: int | None = None
    sample: int | None = None
    steps: int | None = None
    partial: bool = False
    folders: tuple[str, ...] = ()
    chooser: str | None = None  # of an ensemble
    clips: bool = False  # one clip of each scenario, of no loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """The runs and the scenarios on which all of them are compared."""

    runs: tuple[ScoredRun, ...]
    scenario_ids: tuple[str, ...]
    scenes: tuple[str, ...]
    left_out: Mapping[str, str]  # scenario id to the reason

    def record(self, take: Take) -> CaseRecord:
        return self.runs[take.run].records[take.scenario_id, take.index]

    def attempt(self, take: Take) -> Attempt:
        return self.runs[take.run].outcomes[take.scenario_id].attempts[take.index]

    def scores(self, row: Row, score: str, weights: Floats | None = None) -> Floats:
        """Percent [seeds, R], where scene s counts weights[r, s] times; without weights once each, R = 1."""
        weights = np.ones((1, len(self.scenes))) if weights is None else weights
        function = original_scores if score == ORIGINAL else verified_scores
        submissions = [[self.record(picks[key]) for key in self.scenario_ids] for picks in row.picks[score]]
        return np.stack([function(cases, self.scenes, weights) for cases in submissions])


def make_board(runs: Sequence[ScoredRun]) -> Board:
    """ConfigError for a run given twice or no common scenario, ScorerError for different references."""
    folders = [run.folder.resolve() for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise ConfigError(f"{run.folder} is given twice", fix="name every run or folder once")
    names = dict.fromkeys(key for run in runs for key in (*run.outcomes, *run.failed))
    reasons = {name: _reason(runs, name) for name in names}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    kept = tuple(name for name in names if name not in left_out)
    if not kept:
        raise ConfigError(
            f"no scenario is scored in every run: {next(iter(left_out.values()), 'there is none')}",
            fix="give runs over the same dataset, finished and scored",
        )
    _check_references(runs, kept)
    scenes = sorted({_records(runs[0], name)[0].scene for name in kept})
    return Board(runs=tuple(runs), scenario_ids=kept, scenes=tuple(scenes), left_out=left_out)


def single_rows(board: Board) -> list[list[Row]]:
    """Rows of each group of runs, numbered from 1 over all; runs of a group differ in their seed alone."""
    groups = []
    number = 1
    for group in _groups(board.runs):
        rows = []
        for loop, sample in _rounds([board.runs[position] for position in group]):
            rows.append(_single_row(board, group, str(number), loop, sample))
            number += 1
        groups.append(rows)
    return groups


def loop_choice(board: Board, row: Row) -> tuple[Picks, ...]:
    """What the loop itself chose, for each seed of a single row's runs."""
    return tuple(
        {
            key: Take(run=take.run, scenario_id=key, index=board.runs[take.run].chosen(key))
            for key, take in picks.items()
        }
        for picks in row.picks[VERIFIED]
    )


def take_of_round(attempts: Sequence[Attempt], loop: int, sample: int) -> Attempt:
    """The take of round `loop`; where the scenario stopped earlier, of the last round that it has.

    Where that round has fewer samples, the last one up to `sample`.
    """
    reached = [attempt for attempt in attempts if attempt.round <= loop] or list(attempts)[:1]
    last = max(attempt.round for attempt in reached)
    of_round = sorted((a for a in reached if a.round == last), key=lambda attempt: attempt.sample)
    return max(
        (a for a in of_round if a.sample <= sample), default=of_round[0], key=lambda attempt: attempt.sample
    )


def _single_row(board: Board, group: Sequence[int], name: str, loop: int, sample: int) -> Row:
    runs = [board.runs[position] for position in group]
    clips = runs[0].clips
    picks = tuple(
        {
            key: Take(
                run=position,
                scenario_id=key,
                index=take_of_round(run.outcomes[key].attempts, loop, sample).index,
            )
            for key in board.scenario_ids
        }
        for position, run in zip(group, runs, strict=True)
    )
    return Row(
        name=name,
        picks=dict.fromkeys(SCORES, picks),
        seeds=() if clips else tuple(run.config.loop.seed for run in runs),
        loop=None if clips else loop,
        sample=None if clips else sample,
        steps=runs[0].steps,
        partial=runs[0].config.loop.only_incomplete and loop > 0,
        clips=clips,
        folders=tuple(run.folder.name for run in runs),
    )


def _rounds(runs: Sequence[ScoredRun]) -> list[tuple[int, int]]:
    """Every (round, sample) that some scenario of these runs has."""
    attempts = [take for run in runs for outcome in run.outcomes.values() for take in outcome.attempts]
    return sorted({(attempt.round, attempt.sample) for attempt in attempts})


def _groups(runs: Sequence[ScoredRun]) -> list[list[int]]:
    """Positions of runs that are equal but for their seed and folder, in the order given."""
    groups: list[tuple[object, list[int]]] = []
    for position, run in enumerate(runs):
        same = next((members for settings, members in groups if settings == _settings(run)), None)
        if same is None:
            groups.append((_settings(run), [position]))
            continue
        twin = next((runs[p] for p in same if runs[p].config.loop.seed == run.config.loop.seed), None)
        if twin is not None:
            raise ConfigError(
                f"{twin.folder} and {run.folder} have the same settings and the same seed",
                fix="give one of them, or runs with other seeds",
            )
        same.append(position)
    return [members for _, members in groups]


def _settings(run: ScoredRun) -> dict[str, Any]:
    """All that decides a run's takes besides its seed: settings, and the digests of the weights."""
    if run.clips:
        return {"folder": run.folder}
    settings = asdict(run.config)
    settings["out"] = None
    settings["loop"] = {**settings["loop"], "seed": None}
    models = run.manifest.get("models", {})
    return {**settings, "weights": {role: model["sha256"] for role, model in models.items()}}


def _reason(runs: Sequence[ScoredRun], scenario_id: str) -> str | None:
    """Why a scenario cannot be compared over all runs."""
    for run in runs:
        if scenario_id in run.failed:
            return f"{scenario_id} failed in {run.folder}"
        if scenario_id not in run.outcomes:
            return f"{run.folder} has no scenario {scenario_id}"
        for attempt in run.outcomes[scenario_id].attempts:
            if (scenario_id, attempt.index) not in run.records:
                return f"take {attempt.index} of {scenario_id} in {run.folder} is unscored"
    return None


def _check_references(runs: Sequence[ScoredRun], scenario_ids: Sequence[str]) -> None:
    """Runs at one frame rate are scored against equal references, or they are not of one dataset."""
    first: dict[float, tuple[Path, Sequence[object]]] = {}
    for run in runs:
        found = [(record.scene, record.view, record.variance) for record in _firsts(run, scenario_ids)]
        folder, expected = first.setdefault(run.fps, (run.folder, found))
        if found != expected:
            raise ScorerError(
                f"{folder} and {run.folder} were scored against different reference clips",
                fix="compare runs over one dataset, scored against the same copy of it",
            )


def _firsts(run: ScoredRun, scenario_ids: Sequence[str]) -> list[CaseRecord]:
    return [_records(run, scenario_id)[0] for scenario_id in scenario_ids]


def _records(run: ScoredRun, scenario_id: str) -> list[CaseRecord]:
    return [run.records[scenario_id, take.index] for take in run.outcomes[scenario_id].attempts]
