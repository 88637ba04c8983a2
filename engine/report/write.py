"""Reads a run folder and writes RUN/report.html, one self-contained page.

Reads the run folder only: no model, no reference clip, no network. What the page shows is decided in
`engine.report.page`; here is where the facts come from and what is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from engine.errors import ScorerError
from engine.report.page import TIMELINE_PX
from engine.report.render import render
from engine.report.run_data import Record, ReportData, Scores
from engine.report.scores import read_groups
from engine.runs.folder import is_live
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.profile import Tally
from engine.runs.store import RunStore
from engine.runs.takes import is_of
from engine.runs.timeline import Timeline
from engine.runs.trace_file import read_trace
from engine.runs.watch_page import page_of
from engine.types import Scenario
from kernels.files import read_json, whole_file

SCORES = "scores.json"


def write_report(run: Path) -> Path:
    """Write RUN/report.html and return its path; a report that exists is replaced at once or not at all.

    Raises StoreError when `run` is no run folder or a JSON file in it is damaged; ScorerError when that file
    is scores.json.
    """
    target = run / "report.html"
    with RunStore.open(run, read_only=True) as store, whole_file(target) as part:
        data = _gathered(run, store)
        with part.open("w", encoding="utf-8") as file:
            file.writelines(render(data))
    return target


def gather(run: Path) -> ReportData:
    """All that the report shows, from run.sqlite and (optional) scores.json, trace.json and manifest.json.

    Raises as `write_report` does. Works on a run that is still being written.
    """
    with RunStore.open(run, read_only=True) as store:
        data = _gathered(run, store)
        return replace(data, records=tuple(data.records))


class StoredRecords(Sequence[Record]):
    """The records of a run, each read when it is looked at: thousands of them do not fit well in memory."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._scenarios = store.scenarios()

    def __len__(self) -> int:
        return len(self._scenarios)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self.of(scenario) for scenario in self._scenarios[index]]
        return self.of(self._scenarios[index])

    def of(self, scenario: Scenario) -> Record:
        history = self._store.history(scenario.id)
        outcome = self._store.outcome_of(scenario.id, history.attempts)
        return Record(
            scenario=scenario,
            attempts=history.attempts,
            outcome=outcome,
            plan=history.plan,
            scouts=history.scouts,
        )


def scores_of(run: Path, store: RunStore) -> tuple[Scores | None, bool]:
    """What the scorer said of the takes as they are now; and whether it said it of others, as it saw them.

    ScorerError as `read_scores`.
    """
    scores, document = None, _read_document(run / SCORES)
    is_stale = document is not None and not is_of(document, store)
    if document is not None and is_of(document, store, whoever_chosen=True):
        scores = scores_from(document, run / SCORES)
        if is_stale:
            scores = _of_single_takes(scores)
    return scores, is_stale


def _gathered(run: Path, store: RunStore) -> ReportData:
    scores, is_stale = scores_of(run, store)
    changed = frozenset(take for take, path in store.changed_takes().items() if path.is_file())
    tally = Tally()
    timeline = Timeline(tally.watching(read_trace(run)), TIMELINE_PX)
    manifest = read_manifest(run / MANIFEST)
    return ReportData(
        run=run.resolve(),
        records=StoredRecords(store),
        scores=scores,
        has_stale_scores=is_stale,
        changed_takes=changed,
        scout_digests=store.scouts.digests(),
        requests=store.requests.all(),
        watch=page_of(run) if is_live(run) else None,
        prefix_digests=manifest.get("prefixes", {}),
        timeline=timeline.svg() if timeline else None,
        totals=timeline.totals() if timeline else None,
        tally=tally if timeline else None,
        manifest=manifest,
    )


def _of_single_takes(scores: Scores) -> Scores | None:
    """What is still so once another take was chosen; None where only the chosen ones were scored."""
    if not scores.attempts:
        return None
    return Scores(
        physics_iq=None,
        physics_iq_verified=None,
        sub_scores={},
        by_category={},
        cases={},
        attempts=scores.attempts,
        unscored={},
    )


def read_scores(path: Path) -> Scores | None:
    """The scorer's file, None when the run was not scored; ScorerError when it is not in the known form."""
    document = _read_document(path)
    return None if document is None else scores_from(document, path)


def _read_document(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except ValueError as error:
        raise _unknown_scores(path, error) from error


def scores_from(data: Any, path: Path) -> Scores:
    """What the report shows of a parsed scores file; ScorerError, with its `path`, for another form."""
    try:
        verified = data.get("physics_iq_verified")
        return Scores(
            physics_iq=None if data["physics_iq"] is None else float(data["physics_iq"]),
            physics_iq_verified=None if verified is None else float(verified),
            sub_scores={str(name): float(value) for name, value in data.get("sub_scores", {}).items()},
            by_category={str(name): float(value) for name, value in data.get("by_category", {}).items()},
            cases={str(case["scenario_id"]): float(case["score"]) for case in data["cases"]},
            attempts={
                (str(entry["scenario_id"]), int(entry["attempt"])): float(entry["score"])
                for entry in data.get("attempts", [])
            },
            unscored={str(entry["scenario_id"]): str(entry["reason"]) for entry in data.get("unscored", [])},
            groups=read_groups(data),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unknown_scores(path, error) from error


def _unknown_scores(path: Path, error: Exception) -> ScorerError:
    return ScorerError(
        f"{path} is not a scores file of this version: {type(error).__name__}: {error}",
        fix="score the run again with `retake score`, or delete the file",
    )
