"""Run folders: made by the whole loop over a dataset, gone on with, read, reported, chosen from again.

The folder is what the commands of `retake` make and read, so either can go on where the other ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.api.loops import OnTake, Quiet
from engine.api.models import Settings
from engine.api.scores import Scores, current_scores
from engine.api.takes import StrPath
from engine.protocols import Selector
from engine.settings.config import load_config
from engine.types import Attempt, Outcome, PlanReply, Scenario, Scout

if TYPE_CHECKING:
    from engine.build.run import Run
    from engine.loop.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioRecord:
    """One scenario and what its run holds of it."""

    scenario: Scenario
    plan: PlanReply | None
    """None until the critic has read the prefix; its `plan` is None where the reply could not be read."""
    attempts: tuple[Attempt, ...]
    outcome: Outcome | None
    """None while it is unfinished; else it has the number of the chosen take, or `failure`."""
    chosen: Path | None
    """The clip of the chosen take under its benchmark name, in `chosen/`."""
    scouts: tuple[Scout, ...] = ()
    """Looks at candidates, of the scout loop alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run folder as it was when it was read."""

    folder: Path
    scenarios: Mapping[str, ScenarioRecord]
    """By id, in the order of the dataset."""
    scores: Scores | None
    """None where the run was not scored, or other takes were chosen since."""

    def video(self, attempt: Attempt) -> Path:
        """Where the take lies."""
        return self.folder / attempt.video_path


def run(
    dataset: StrPath,
    out: StrPath,
    settings: Settings | None = None,
    *,
    config: StrPath | None = None,
    on_take: OnTake | None = None,
) -> RunRecord:
    """The whole loop over a dataset, as `retake run` does it, into the new folder `out`.

    settings: by their key, over those of the TOML file `config`.
    on_take: called once a take is stored, and again once it is judged where that is later.

    A scenario that fails does not end the run: its record says why. Nothing is made before settings, models,
    clips and memory are found to fit. Raises ConfigError, ModelError, DatasetError, DoesNotFit and StoreError
    for what does not, DeviceError when the GPU is lost and RunLost when the disk takes no more; what was
    finished before stays, and `resume` goes on.
    """
    from engine.build.run import build_run

    given = {**(settings or {}), "dataset": str(dataset), "out": str(out)}
    loaded = load_config(None if config is None else Path(config), given)
    return _execute(lambda: build_run(loaded), on_take)


def resume(folder: StrPath, *, on_take: OnTake | None = None) -> RunRecord:
    """Go on with a run that was stopped; what is finished is kept, what failed is tried again.

    Raises as `run` does; StoreError also where models, questions or versions are not those it was started
    with, which `retake resume` can be told to accept.
    """
    from engine.build.run import resume_run

    return _execute(lambda: resume_run(Path(folder)), on_take)


def read_run(folder: StrPath) -> RunRecord:
    """What a run folder holds; also of a run that another process is writing.

    Raises StoreError for a folder that is no run, is damaged or was written by a later version, ScorerError
    for scores that cannot be read.
    """
    from engine.runs.store import RunStore

    place = Path(folder)
    with RunStore.open(place, read_only=True) as store:
        outcomes = store.outcomes()
        found = {}
        for scenario in store.scenarios():
            past, outcome = store.history(scenario.id), outcomes.get(scenario.id)
            is_chosen = outcome is not None and outcome.chosen is not None
            found[scenario.id] = ScenarioRecord(
                scenario=scenario,
                plan=past.plan,
                attempts=outcome.attempts if outcome is not None else past.attempts,
                outcome=outcome,
                chosen=store.chosen_path(scenario.id) if is_chosen else None,
                scouts=past.scouts,
            )
        return RunRecord(folder=place, scenarios=found, scores=current_scores(place, store))


def report(folder: StrPath) -> Path:
    """Write the run as one HTML page and return its path; raises StoreError and ScorerError as `read_run`."""
    from engine.report.write import write_report

    return write_report(Path(folder))


def choose_again(
    folder: StrPath,
    selectors: Mapping[str, Selector] | Sequence[str] | str,
    *,
    takes: Sequence[int] = (),
    out: StrPath | None = None,
) -> list[Selection]:
    """What these selectors would choose among the stored takes; nothing is generated or changed in the run.

    selectors: objects by a name of yours, or names of files of engine/selectors, with the networks and the
    probe of the run's settings; of several, ranks are averaged.
    takes: numbers to choose among; default: all. out: a folder for the clips that are chosen.

    Each Selection has `scenario_id`, `before`, `chosen` and the `scores` of each take. Raises ConfigError for
    an unknown name or number, or a probe that does not fit; StoreError where a take is missing or not as it
    was stored.
    """
    from engine.build.probing import selector_settings
    from engine.loop.selection import reselect

    if isinstance(selectors, str):
        selectors = (selectors,)
    by = selectors if isinstance(selectors, Mapping) else tuple(selectors)
    return reselect(
        Path(folder),
        by=by,
        attempts=takes,
        out=None if out is None else Path(out),
        settings=selector_settings(Path(folder), "cpu", () if isinstance(by, Mapping) else by),
    )


def _execute(build: Callable[[], Run], on_take: OnTake | None) -> RunRecord:
    with build() as made:
        made.execute(Quiet(on_take=on_take))
    return read_run(made.folder)
