"""The chosen takes of a run as files to post: RUN/joined/, each under its benchmark name.

Reads the run and the clips that it continued, and writes nothing of the run. A clip that is not the one that
the run saw is refused: a foreign run could name any file of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, RetakeError, StoreError, VideoError, nearest
from engine.runs import choices
from engine.runs.folder import JOINED, place_in
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.takes import refuse_changed
from engine.types import Attempt, Clip, Scenario
from engine.video.files import is_readable, probe
from engine.video.join import Joined, join
from engine.words import command_line
from kernels.files import file_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One scenario: what was written where, or why nothing was."""

    scenario_id: str
    path: Path
    take: int | None = None
    made: Joined | None = None
    problem: str | None = None
    fix: str | None = None


def write_joined(
    run: Path, scenario_id: str | None = None, *, out: Path | None = None, with_prefix: bool
) -> Iterator[Post]:
    """One by one, of all scenarios or of the one that is named; into `out`, else into the run folder.

    A scenario that cannot be joined is told and the others go on. ConfigError for a name that there is not,
    StoreError where there is no run.
    """
    seen = read_manifest(run / MANIFEST).get("prefixes", {})
    with RunStore.open(run, read_only=True) as store:
        scenarios = {scenario.id: scenario for scenario in store.scenarios()}
        if scenario_id is not None and scenario_id not in scenarios:
            raise ConfigError(
                f"{run} has no scenario {scenario_id!r}{nearest(scenario_id, scenarios)}",
                fix="give the name of a scenario as in the report, or none for all",
            )
        for scenario in scenarios.values() if scenario_id is None else (scenarios[scenario_id],):
            place = place_in(run, Path(JOINED) / scenario.output_name)
            path = place if out is None else place_in(out, scenario.output_name)
            try:
                take = _chosen(store, scenario)
                clip = _as_seen(scenario, seen.get(scenario.id)) if with_prefix else scenario.prefix
                made = join(clip, place_in(run, take.video_path), path, with_prefix=with_prefix)
            except RetakeError as error:
                yield Post(scenario_id=scenario.id, path=path, problem=error.problem, fix=error.fix)
            else:
                yield Post(scenario_id=scenario.id, path=path, take=take.index, made=made)


def _chosen(store: RunStore, scenario: Scenario) -> Attempt:
    attempts = store.attempts(scenario.id)
    outcome = store.outcome_of(scenario.id, attempts)
    resumes = command_line("retake", "resume", store.folder)
    if outcome is None:
        raise StoreError(f"{scenario.id} is not finished", fix=resumes)
    if outcome.chosen is None:
        chooses = choices.command(store.folder, scenario.id, 0)
        raise StoreError(
            f"{scenario.id} has no chosen take: {outcome.failure}",
            fix=f"choose one yourself: {chooses}" if attempts else resumes,
        )
    refuse_changed(store.folder, store.changed_takes(is_readable, only=(scenario.id, outcome.chosen)))
    return attempts[outcome.chosen]


def _as_seen(scenario: Scenario, digest: str | None) -> Clip:
    path = scenario.prefix.path
    if not path.is_file():
        raise VideoError(f"{path} is not there any more", fix="put the clip back, or join without it")
    if digest is None or file_digest(path) != digest:
        raise VideoError(f"{path} is not the clip that the run continued", fix="put that one back")
    return probe(path)
