"""Ensembles: submissions put together from the takes of several rows, by the benchmark score or by selectors.

One that chooses by the benchmark score is an oracle: a bound, not a result. Selectors see prefix and takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.progress import track

from bench.analysis.take_choice import TakeReader, choose, score_takes
from bench.scoring.case_record import CaseRecord, original_contributions
from bench.table.rows import ORIGINAL, SCORES, VERIFIED, Board, Picks, Row, Take, loop_choice
from engine.commands._console import make_console
from engine.errors import ConfigError
from engine.loop.selection import load_selectors
from engine.protocols import Selector
from engine.runs.states import with_states
from engine.types import SelectorSettings

ORACLE, LOOP = "oracle", "loop"
Candidates = Mapping[str, tuple[Take, ...]]
"""By scenario id: the different takes of the members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """The rows that it is made of; its submission i is made of each member's submission `places[i]`."""

    name: str
    members: tuple[Row, ...]
    places: tuple[tuple[int, ...], ...]
    seeds: tuple[int, ...]
    note: str | None

    def candidates(self, board: Board) -> list[Candidates]:
        """One for each submission."""
        return [
            {
                key: tuple(
                    dict.fromkeys(
                        member.picks[VERIFIED][at][key]
                        for member, at in zip(self.members, place, strict=True)
                    )
                )
                for key in board.scenario_ids
            }
            for place in self.places
        ]


def parse_ensembles(text: str, rows: Sequence[Row]) -> list[Ensemble]:
    """Ensembles of rows from "1,2,5;all"; ConfigError for rows that do not exist or have no common seed."""
    by_name = {row.name: row for row in rows}
    ensembles = []
    for spec in (part.strip().strip("{}") for part in text.split(";")):
        names = list(by_name) if spec == "all" else [name.strip() for name in spec.split(",") if name.strip()]
        for name in names:
            if name not in by_name:
                raise ConfigError(
                    f"there is no row {name!r} for the ensemble {spec!r}",
                    fix=f'name rows 1 to {len(rows)}, as in "1,2,5;all"',
                )
        if names:
            name = "all" if spec == "all" else ",".join(dict.fromkeys(names))
            ensembles.append(make_ensemble(name, [by_name[name] for name in dict.fromkeys(names)]))
    return ensembles


def make_ensemble(name: str, members: Sequence[Row]) -> Ensemble:
    """Members with several seeds are put together seed by seed; single ones whatever their seeds."""
    if all(len(member.seeds) == 1 for member in members):
        seeds = {member.seeds[0] for member in members}
        return Ensemble(
            name=name,
            members=tuple(members),
            places=((0,) * len(members),),
            seeds=tuple(seeds) if len(seeds) == 1 else (),
            note=None,
        )
    common = [seed for seed in members[0].seeds if all(seed in member.seeds for member in members)]
    if not common:
        raise ConfigError(
            f"the rows of ensemble {{{name}}} have no seed in common",
            fix="put together rows whose runs have the same seeds, or one seed each",
        )
    unused = sorted({seed for member in members for seed in member.seeds} - set(common))
    return Ensemble(
        name=name,
        members=tuple(members),
        places=tuple(tuple(member.seeds.index(seed) for member in members) for seed in common),
        seeds=tuple(common),
        note=f"ensemble {{{name}}}: seeds {unused} are not in every row and are left out" if unused else None,
    )


def check_frame_rates(board: Board, ensemble: Ensemble) -> None:
    """A submission has one frame rate."""
    rates = {
        board.runs[take.run].fps
        for member in ensemble.members
        for picks in member.picks[VERIFIED]
        for take in picks.values()
    }
    if len(rates) > 1:
        raise ConfigError(
            f"ensemble {{{ensemble.name}}} mixes takes of {len(rates)} frame rates: {sorted(rates)}",
            fix="name rows of one frame rate; a submission has one",
        )


def ensemble_row(ensemble: Ensemble, chooser: str, picks: Mapping[str, tuple[Picks, ...]]) -> Row:
    return Row(
        name=f"{{{ensemble.name}}} {chooser}",
        picks=picks,
        seeds=ensemble.seeds,
        steps=_common([member.steps for member in ensemble.members]),
        folders=tuple(dict.fromkeys(name for member in ensemble.members for name in member.folders)),
        chooser=chooser,
    )


def oracle_row(board: Board, ensemble: Ensemble) -> Row:
    """For each score the best take of every scenario by that score."""
    picks: dict[str, list[Picks]] = {score: [] for score in SCORES}
    for candidates in ensemble.candidates(board):
        contribution = original_contributions([board.record(takes[0]) for takes in candidates.values()])
        picks[ORIGINAL].append(_best(board, candidates, contribution))
        picks[VERIFIED].append(_best(board, candidates, lambda record: record.score))
    return ensemble_row(ensemble, ORACLE, {score: tuple(found) for score, found in picks.items()})


def _best(board: Board, candidates: Candidates, value: Callable[[CaseRecord], float]) -> Picks:
    return {key: max(takes, key=lambda take: value(board.record(take))) for key, takes in candidates.items()}


def loop_row(board: Board, ensemble: Ensemble) -> Row:
    """The loop's own choice among the takes of its run; the members are all rows of one group of runs."""
    chosen = loop_choice(board, ensemble.members[0])
    return ensemble_row(ensemble, LOOP, dict.fromkeys(SCORES, chosen))


def selector_rows(
    board: Board, ensembles: Sequence[Ensemble], choosers: Sequence[str], settings: SelectorSettings
) -> list[list[Row]]:
    """For each ensemble one row a chooser, such as "consensus" or the rank sum "geometry+vjepa"."""
    if not choosers:
        return [[] for _ in ensembles]
    selectors = load_selectors([name for chooser in choosers for name in chooser.split("+")], settings)
    sets = [ensemble.candidates(board) for ensemble in ensembles]
    chosen: list[list[dict[str, dict[str, Take]]]] = [
        [{chooser: {} for chooser in choosers} for _ in submissions] for submissions in sets
    ]
    for key in track(board.scenario_ids, "choosing", console=make_console(stderr=True), transient=True):
        choices = _Choices(board, selectors, choosers, TakeReader(), {})
        for submissions, found in zip(sets, chosen, strict=True):
            for candidates, of_chooser in zip(submissions, found, strict=True):
                for chooser, take in choices.of(candidates[key]).items():
                    of_chooser[chooser][key] = take
    return [
        [
            ensemble_row(ensemble, chooser, dict.fromkeys(SCORES, tuple(seed[chooser] for seed in found)))
            for chooser in choosers
        ]
        for ensemble, found in zip(ensembles, chosen, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Choices:
    """The choices for one scenario; each set of takes is scored once."""

    board: Board
    selectors: Mapping[str, Selector]
    choosers: Sequence[str]
    reader: TakeReader
    known: dict[tuple[Take, ...], dict[str, Take]]

    def of(self, takes: tuple[Take, ...]) -> dict[str, Take]:
        """The chosen take by chooser."""
        if takes not in self.known:
            scenario = self.board.runs[takes[0].run].scenarios[takes[0].scenario_id]
            attempts = [
                one
                for take in takes
                for one in with_states(self.board.runs[take.run].folder, [self.board.attempt(take)])
            ]
            paths = [
                self.board.runs[take.run].folder / attempt.video_path
                for take, attempt in zip(takes, attempts, strict=True)
            ]
            scores, _ = score_takes(self.selectors, scenario, self.reader.of(paths), attempts)
            self.known[takes] = {
                chooser: takes[choose(attempts, scores, chooser.split("+"))] for chooser in self.choosers
            }
        return self.known[takes]


def _common(steps: Sequence[int | None]) -> int | None:
    return steps[0] if len(set(steps)) == 1 else None
