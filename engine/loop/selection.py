"""Choosing among stored takes: their scores by selector, and choosing again by other selectors or takes.

Knows selectors by name only and generates nothing. Invariant: a run is read, never changed.
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from engine import plugins
from engine.errors import ConfigError
from engine.loop.policy import CRITIC_SCORE, choose_take
from engine.loop.ranking import score_rows
from engine.protocols import Selector
from engine.runs.states import with_states
from engine.runs.store import RunStore
from engine.runs.takes import refuse_changed
from engine.types import Attempt, Scenario, SelectorSettings, Video
from engine.video.files import is_readable, probe, read_frames

SELECTORS = "engine.selectors"
BUNDLED_NETWORKS = SelectorSettings()
CACHE_BYTES = 2 << 30  # of decoded takes: a few of 720p, every one of the bundled models


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What other selectors or other takes would have chosen for one scenario."""

    scenario_id: str
    attempts: tuple[int, ...]
    scores: tuple[Mapping[str, float], ...]  # of each attempt by selector; a missing score is absent
    before: int
    chosen: int


def load_selectors(
    names: Sequence[str], settings: SelectorSettings = BUNDLED_NETWORKS
) -> dict[str, Selector]:
    """By name, in the order given; ConfigError for a name that is no selector."""
    found = {name: plugins.load(SELECTORS, name) for name in names}
    return {name: plugin.build(settings) for name, plugin in found.items()}


def reselect(
    folder: Path,
    *,
    by: Sequence[str] | Mapping[str, Selector],
    attempts: Sequence[int] = (),
    out: Path | None = None,
    settings: SelectorSettings = BUNDLED_NETWORKS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Selection]:
    """Choose again by the mean rank over the selectors `by`, among the takes `attempts` (none: all).

    by: names, or objects by a name of the caller's.

    A scenario that has none of these takes because it stopped earlier offers all it has. With `out` the
    chosen clips are copied there under their benchmark names. Scenario by scenario: one's takes leave memory
    before the next one's are read. `progress` is told scenarios done and all of them. Raises ConfigError for
    unknown selectors or takes, StoreError where a take is missing or not as it was stored.
    """
    if not by:
        raise ConfigError("no selector is named", fix=f"use some of: {', '.join(plugins.names(SELECTORS))}")
    selectors = by if isinstance(by, Mapping) else load_selectors(by, settings)
    scorer = TakeScorer(folder, selectors)
    selections = []
    with RunStore.open(folder, read_only=True) as store:
        finished = {key for key, (chosen, _) in store.overview.choices().items() if chosen is not None}
        _check_takes(attempts, max((made[-1] for made in store.overview.take_numbers().values()), default=0))
        refuse_changed(folder, store.changed_takes(is_readable))
        scenarios = [scenario for scenario in store.scenarios() if scenario.id in finished]
        for done, scenario in enumerate(scenarios):
            progress(done, len(scenarios))
            made = store.attempts(scenario.id)
            before = store.outcome_of(scenario.id, made)
            assert before is not None and before.chosen is not None, "failed scenarios are left out"
            takes = [a for a in made if a.index in attempts] or list(made)
            scores = scorer.scores(scenario, takes)
            scorer.forget(takes)
            chosen = takes[best_take(takes, scores)]
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / chosen.video_path, out / scenario.output_name)
            selections.append(
                Selection(
                    scenario_id=scenario.id,
                    attempts=tuple(take.index for take in takes),
                    scores=tuple(scores),
                    before=before.chosen,
                    chosen=chosen.index,
                )
            )
        progress(len(scenarios), len(scenarios))
    return selections


class StoredTakes(Sequence[Video]):
    """The takes of a run folder as selectors see them: decoded when looked at, so that few are in memory.

    Decoded takes are kept for the next selector, up to CACHE_BYTES. For one thread.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], cache: OrderedDict[Path, Video]) -> None:
        self._folder = folder
        self._paths = tuple(paths)
        self._cache = cache

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Video: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Video]: ...

    def __getitem__(self, index: int | slice) -> Video | Sequence[Video]:
        if isinstance(index, slice):
            return StoredTakes(self._folder, self._paths[index], self._cache)
        path = self._paths[index]
        if path not in self._cache:
            clip = probe(self._folder / path)
            self._cache[path] = Video(frames=read_frames(clip), fps=clip.fps)
        self._cache.move_to_end(path)
        take = self._cache[path]
        while sum(video.frames.nbytes for video in list(self._cache.values())) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return take

    def __iter__(self) -> Iterator[Video]:
        return (self[index] for index in range(len(self)))


class TakeScorer:
    """Selector scores of stored takes, and the takes themselves. For one thread: the select lane's."""

    def __init__(self, folder: Path, selectors: Mapping[str, Selector]) -> None:
        self._folder = folder
        self._selectors = selectors
        self._cache: OrderedDict[Path, Video] = OrderedDict()

    def scores(self, scenario: Scenario, attempts: Sequence[Attempt]) -> list[dict[str, float]]:
        """By selector, for each attempt. A selector says minus infinity for "no score"; that is left out."""
        takes, known = self._takes(attempts), with_states(self._folder, attempts)
        columns = {name: selector.score(scenario, takes, known) for name, selector in self._selectors.items()}
        return score_rows(columns, len(attempts))

    def read(self, attempt: Attempt) -> Video:
        return self._takes([attempt])[0]

    def forget(self, attempts: Iterable[Attempt]) -> None:
        """Drop the takes of a scenario that is finished from memory. From any thread."""
        for attempt in attempts:
            self._cache.pop(attempt.video_path, None)

    def _takes(self, attempts: Sequence[Attempt]) -> StoredTakes:
        return StoredTakes(self._folder, [attempt.video_path for attempt in attempts], self._cache)


def best_take(takes: Sequence[Attempt], scores: Sequence[Mapping[str, float]]) -> int:
    """Position of the best take by selectors alone: the policy's choice where no critique is known."""
    bare = [
        replace(take, index=position, critique=None, selector_scores=dict(entry))
        for position, (take, entry) in enumerate(zip(takes, scores, strict=True))
    ]
    return choose_take(bare, (CRITIC_SCORE,))


def _check_takes(attempts: Sequence[int], last: int) -> None:
    for index in attempts:
        if index > last:
            raise ConfigError(f"no scenario of this run has a take {index}", fix=f"use takes 0 to {last}")
