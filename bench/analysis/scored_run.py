"""A finished run folder with the benchmark score of every take: store, settings and scores.json put together.

Scores nothing itself. Invariant: every stored take has its record, or the reason why it has none. A
scores.json that is absent, lacks takes or is of another version is refused with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.scoring.case_record import CaseRecord, read_record
from engine.errors import ScorerError
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.takes import is_of, refuse_changed
from engine.settings.config import RunConfig, read_config
from engine.types import Outcome, Scenario
from engine.words import command_line, counted
from kernels.files import read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRun:
    """Scenarios of which the loop chose a take, by id. A take without a record could not be scored."""

    folder: Path
    config: RunConfig
    manifest: Mapping[str, Any]
    fps: float
    scenarios: Mapping[str, Scenario]
    outcomes: Mapping[str, Outcome]
    records: Mapping[tuple[str, int], CaseRecord]  # by scenario id and attempt number
    failed: tuple[str, ...]  # scenarios without any take to choose
    clips: bool = False  # one take of each scenario, of which no loop and no settings are known

    @property
    def steps(self) -> int | None:
        """Denoise steps as set, as the run resolved them, or as its model folder says today; else None."""
        if self.config.generator.steps is not None:
            return self.config.generator.steps
        found = self.manifest.get("resolved", {}).get("steps", _folder_steps(self.manifest))
        return found if isinstance(found, int) else None

    def chosen(self, scenario_id: str) -> int:
        """The loop's own choice: a user's says nothing of the loop."""
        chosen = self.outcomes[scenario_id].own.chosen
        assert chosen is not None, f"{scenario_id} failed"
        return chosen


def read_run(folder: Path) -> ScoredRun:
    """A finished run whose takes are all scored. StoreError or ScorerError with the way out otherwise."""
    config, outcomes, scenarios = read_finished(folder)
    document = _read_scores(folder)
    with RunStore.open(folder, read_only=True) as store:
        if not is_of(document, store, whoever_chosen=True):
            raise _rescore(folder, "is of other takes than the run has now")
    records = {}
    try:
        for entry in document["attempts"]:
            records[entry["scenario_id"], entry["attempt"]] = read_record(entry)
        unscored = {(entry["scenario_id"], entry.get("attempt")) for entry in document["unscored"]}
        fps = float(document["fps"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _rescore(folder, "was written by another version of retake score") from error
    stored = {(key, take.index) for key, outcome in outcomes.items() for take in outcome.attempts}
    missing = stored - records.keys() - unscored
    if missing:
        raise _rescore(folder, f"lacks {len(missing)} of {counted(len(stored), 'take')}")
    return scored_run(folder, config, outcomes, scenarios, records, fps)


def read_finished(folder: Path) -> tuple[RunConfig, dict[str, Outcome], tuple[Scenario, ...]]:
    """Settings, outcomes and scenarios. ScorerError while some are pending, StoreError for changed takes.

    Scores are still of takes that were removed since; whoever looks at one is told.
    """
    with RunStore.open(folder, read_only=True) as store:
        outcomes, scenarios = store.outcomes(), store.scenarios()
        changed = {take: path for take, path in store.changed_takes().items() if path.is_file()}
        refuse_changed(folder, changed, "; or leave this run out")
        require_finished(store)
    return read_config(folder), outcomes, scenarios


def require_finished(store: RunStore) -> None:
    """ScorerError while a scenario of the run has no outcome yet: what is read of it would be of a part."""
    if pending := store.pending():
        raise ScorerError(
            f"{counted(len(pending), 'unfinished scenario')} in {store.folder}, the first {pending[0].id}",
            fix=f"finish it with `{command_line('retake', 'resume', store.folder)}`",
        )


def scored_run(
    folder: Path,
    config: RunConfig,
    outcomes: Mapping[str, Outcome],
    scenarios: tuple[Scenario, ...],
    records: Mapping[tuple[str, int], CaseRecord],
    fps: float,
) -> ScoredRun:
    manifest = read_manifest(folder / MANIFEST)
    kept = {key: outcome for key, outcome in outcomes.items() if outcome.own.chosen is not None}
    return ScoredRun(
        folder=folder,
        config=config,
        manifest=manifest,
        fps=fps,
        scenarios={scenario.id: scenario for scenario in scenarios if scenario.id in kept},
        outcomes=kept,
        records=records,
        failed=tuple(key for key in outcomes if key not in kept),
    )


def _folder_steps(manifest: Mapping[str, Any]) -> object:
    """What `retake.json` of the generator's folder says."""
    folder = manifest.get("models", {}).get("generator", {}).get("folder")
    path = None if folder is None else Path(folder) / "retake.json"
    if path is None or not path.is_file():
        return None
    try:
        told = read_json(path)
        return len(told["timesteps"]) if told.get("timesteps") else told.get("num_inference_steps")
    except (ValueError, TypeError, AttributeError):
        return None  # whoever runs the folder is told; of this run it says nothing


def _read_scores(folder: Path) -> dict[str, Any]:
    path = folder / "scores.json"
    if not path.is_file():
        raise ScorerError(
            f"{folder} is not scored: {path} does not exist",
            fix=f"{_scores_takes(folder)}, which scores each of its takes",
        )
    try:
        document: dict[str, Any] = read_json(path)
    except ValueError as error:
        raise _rescore(folder, f"is not JSON ({error})") from error
    if not isinstance(document, dict) or not {"attempts", "unscored", "fps"} <= document.keys():
        raise _rescore(folder, "is not what retake score writes")
    return document


def _rescore(folder: Path, what: str) -> ScorerError:
    return ScorerError(f"{folder / 'scores.json'} {what}", fix=f"score its takes: {_scores_takes(folder)}")


def _scores_takes(folder: Path) -> str:
    return command_line("retake", "score", folder, "--all-attempts")
