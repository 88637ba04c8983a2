"""What choosers say of sets of a scene's clips, remembered on disk: a set is asked once.

Reads clips, never references. For one thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.analysis.take_choice import TakeReader
from bench.files import write_json
from bench.quality.candidate_pool import Key, ScenePool
from bench.quality.selector_quality import ALONE
from engine.errors import ConfigError, StoreError
from engine.loop.policy import CRITIC_SCORE
from engine.loop.ranking import score_rows
from engine.protocols import Selector
from engine.runs.states import with_states
from engine.types import Attempt, Scenario
from kernels.files import read_json

FILE = "scores.json"
Keys = tuple[Key, ...]
Rows = list[dict[str, float]]


class SetScores:
    """Called with clips, their scores by chooser. `keep` writes what was asked."""

    def __init__(
        self, pool: ScenePool, scenario: Scenario, selectors: Mapping[str, Selector], file: Path
    ) -> None:
        """`file`: in the folder of the clips, where hidden states lie beside them."""
        self._pool, self._scenario, self._selectors, self._file = pool, scenario, selectors, file
        self._reader = TakeReader()
        self._known: dict[str, dict[Keys, list[float | None]]] = _read(file)
        self._is_new = False

    def __call__(self, keys: Keys) -> Rows:
        rows: Rows = [{} for _ in keys]
        for name in self._selectors:
            for row, score in zip(rows, self._scored(name, keys), strict=True):
                if score is not None:
                    row[name] = score
        for row, key in zip(rows, keys, strict=True):
            judged = self._pool.clips[key].critic_score
            if judged is not None:
                row[CRITIC_SCORE] = judged
        return rows

    def seconds(self, keys: Keys) -> dict[str, float]:
        """That each chooser takes for one of these clips, decoded before."""
        list(self._takes(keys))
        found = {}
        for name in self._selectors:
            start_s = time.perf_counter()
            self._asked(name, keys)
            found[name] = (time.perf_counter() - start_s) / len(keys)
        return found

    def keep(self) -> None:
        if self._is_new:
            entries = [
                {"chooser": name, "keys": [list(key) for key in keys], "scores": scores}
                for name, sets in self._known.items()
                for keys, scores in sets.items()
            ]
            write_json(self._file, {"sets": entries})
            self._is_new = False

    def _scored(self, name: str, keys: Keys) -> list[float | None]:
        known = self._known.setdefault(name, {})
        if name not in ALONE:
            if keys not in known:
                known[keys] = self._asked(name, keys)
                self._is_new = True
            return known[keys]
        for key in keys:
            if (key,) not in known:
                known[(key,)] = self._asked(name, (key,))
                self._is_new = True
        return [known[(key,)][0] for key in keys]

    def _asked(self, name: str, keys: Keys) -> list[float | None]:
        attempts = [
            Attempt(index=place, prompt=clip.prompt, video_path=Path(clip.path.name), critique=None)
            for place, clip in enumerate(self._pool.clips[key] for key in keys)
        ]
        known = with_states(self._file.parent, attempts)
        try:
            column = self._selectors[name].score(self._scenario, self._takes(keys), known)
        except (ConfigError, StoreError):  # a probe of hidden states says nothing of takes of other steps
            return [None] * len(keys)
        return [row.get(name) for row in score_rows({name: column}, len(keys))]

    def _takes(self, keys: Keys) -> Any:
        return self._reader.of([self._pool.clips[key].path for key in keys])


def _read(file: Path) -> dict[str, dict[Keys, list[float | None]]]:
    found: dict[str, dict[Keys, list[float | None]]] = {}
    entries: Sequence[Any] = read_json(file)["sets"] if file.is_file() else ()
    for entry in entries:
        keys = tuple(Key(*key) for key in entry["keys"])
        found.setdefault(entry["chooser"], {})[keys] = entry["scores"]
    return found
