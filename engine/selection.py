"""Choosing among stored takes: their scores by selector, and choosing again by other selectors or takes.

Knows selectors by name only and generates nothing. Invariant: a run is read, never changed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine import plugins
from engine.errors import ConfigError
from engine.policy import RefinementPolicy
from engine.protocols import Selector
from engine.store import RunStore
from engine.types import Attempt, Outcome, Scenario, Video
from engine.video import probe, read_frames

SELECTORS = "engine.selectors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What other selectors or other takes would have chosen for one scenario."""

    scenario_id: str
    attempts: tuple[int, ...]
    scores: tuple[Mapping[str, float], ...]  # of each attempt by selector; a missing score is absent
    before: int
    chosen: int


def load_selectors(names: Sequence[str]) -> dict[str, Selector]:
    """By name, in the order given; ConfigError for a name that is no selector."""
    return {name: plugins.load(SELECTORS, name).build() for name in names}


def reselect(
    folder: Path, *, by: Sequence[str], attempts: Sequence[int] = (), out: Path | None = None
) -> list[Selection]:
    """Choose again by the mean rank over the selectors `by`, among the takes `attempts` (none: all).

    A scenario that has none of these takes because it stopped earlier offers all it has. With `out` the
    chosen clips are copied there under their benchmark names. Raises ConfigError for unknown selectors or
    takes.
    """
    if not by:
        raise ConfigError("no selector is named", fix=f"use some of: {', '.join(plugins.names(SELECTORS))}")
    selectors = load_selectors(by)
    choose = take_scores(folder, selectors)
    selections = []
    with RunStore.open(folder, read_only=True) as store:
        outcomes = {key: value for key, value in store.outcomes().items() if value.chosen is not None}
        _check_takes(attempts, outcomes.values())
        for scenario in (scenario for scenario in store.scenarios() if scenario.id in outcomes):
            outcome = outcomes[scenario.id]
            takes = [a for a in outcome.attempts if a.index in attempts] or list(outcome.attempts)
            scores = choose(scenario, takes)
            chosen = takes[_best(takes, scores)]
            assert outcome.chosen is not None, "failed scenarios are left out"
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / chosen.video_path, out / scenario.output_name)
            selections.append(
                Selection(
                    scenario_id=scenario.id,
                    attempts=tuple(take.index for take in takes),
                    scores=tuple(scores),
                    before=outcome.chosen,
                    chosen=chosen.index,
                )
            )
    return selections


def take_scores(
    folder: Path, selectors: Mapping[str, Selector]
) -> Callable[[Scenario, Sequence[Attempt]], list[dict[str, float]]]:
    """Selector scores of stored takes. A selector says minus infinity for "no score"; that is left out."""

    def scores(scenario: Scenario, attempts: Sequence[Attempt]) -> list[dict[str, float]]:
        clips = [probe(folder / attempt.video_path) for attempt in attempts]
        takes = [Video(frames=read_frames(clip), fps=clip.fps) for clip in clips]
        columns = {name: selector.score(scenario, takes, attempts) for name, selector in selectors.items()}
        return [
            {name: column[row] for name, column in columns.items() if math.isfinite(column[row])}
            for row in range(len(attempts))
        ]

    return scores


def _best(takes: Sequence[Attempt], scores: Sequence[Mapping[str, float]]) -> int:
    """Position of the best take by selectors alone: the policy's choice where no critique is known."""
    bare = [
        replace(take, index=position, critique=None, selector_scores=dict(entry))
        for position, (take, entry) in enumerate(zip(takes, scores, strict=True))
    ]
    return RefinementPolicy(seed=0, negative="").choose(bare)


def _check_takes(attempts: Sequence[int], outcomes: Iterable[Outcome]) -> None:
    last = max((attempt.index for outcome in outcomes for attempt in outcome.attempts), default=0)
    for index in attempts:
        if index > last:
            raise ConfigError(f"no scenario of this run has a take {index}", fix=f"use takes 0 to {last}")
