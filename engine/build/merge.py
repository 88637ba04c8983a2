"""Joins the run folders of shards into one run folder: what several processes or GPUs made of one dataset.

Knows no model. Invariant: the sources are only read, and the new folder appears whole or not at all. Runs of
other settings or other weights are refused, for their takes are not takes of one run.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.build.prepare import open_dataset
from engine.build.run import MANIFEST
from engine.errors import ConfigError, StoreError
from engine.runs.manifest import read_manifest, write_manifest
from engine.runs.store import RunStore
from engine.runs.trace import read_trace, write_trace
from engine.settings.config import RunConfig, read_config, settings, write_config
from engine.types import Attempt, History, Outcome, Scenario
from kernels.files import file_digest

OWN_SETTINGS = frozenset({"out", "shard"})
"""In which the runs of one merge may differ."""
TRACE = "trace.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A run folder with what was read of it; `store` is open for reading."""

    folder: Path
    config: RunConfig
    manifest: Mapping[str, Any]
    store: RunStore
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one run has of a scenario."""

    source: Source
    scenario: Scenario
    outcome: Outcome | None
    history: History

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """The larger one is kept: a chosen take, then a failure, then the most takes."""
        chosen = self.outcome is not None and self.outcome.chosen is not None
        return chosen, self.outcome is not None, len(self.history.attempts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What the new folder holds."""

    num_scenarios: int
    num_finished: int
    num_takes: int
    has_trace: bool
    pending: tuple[str, ...]


def merge(
    runs: Sequence[Path],
    out: Path,
    *,
    dataset: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Write the run folder `out`; `dataset` is where the dataset of the runs lies now, if it was moved.

    Of a scenario that several runs hold the finished one is kept, of unfinished ones the one with most takes.
    Scenarios of the dataset that no run holds become pending. ConfigError for settings, weights or takes
    that differ; StoreError where `out` holds something or a take is missing.
    """
    out = out.expanduser().absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise StoreError(f"{out} holds something already", fix="choose another folder with --out")
    with ExitStack() as opened:
        sources = [_source(folder, opened) for folder in _distinct(runs)]
        _check_settings(sources, ignored=OWN_SETTINGS | ({"dataset"} if dataset else set()))
        _check_weights(sources)
        config = replace(sources[0].config, out=out, shard=None)
        if dataset is not None:
            config = replace(config, dataset=dataset.expanduser().absolute())
        kept = {scenario_id: _keep(found) for scenario_id, found in _by_scenario(sources).items()}
        scenarios = _scenarios(config, kept, fps=_fps(sources[0], kept), required=dataset is not None)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.", suffix=".partial") as partial:
            folder = Path(partial) / "run"
            merged = _write(folder, config, scenarios, kept, sources, progress)
            folder.replace(out)
    return merged


def _distinct(runs: Sequence[Path]) -> list[Path]:
    counts = Counter(folder.expanduser().resolve() for folder in runs)
    for folder, count in counts.items():
        if count > 1:
            raise ConfigError(f"{folder} is named {count} times", fix="name every run once")
    if not counts:
        raise ConfigError("no run is named", fix="name the run folders to join")
    return list(counts)


def _source(folder: Path, opened: ExitStack) -> Source:
    store = opened.enter_context(RunStore.open(folder, read_only=True))
    path = folder / MANIFEST
    if not path.is_file():
        raise StoreError(f"{path} does not exist", fix="merge runs made by `retake run`, which writes it")
    manifest = read_manifest(path)
    return Source(
        folder=folder,
        config=read_config(folder),
        manifest=manifest,
        store=store,
        outcomes=store.outcomes(),
    )


def _check_settings(sources: Sequence[Source], *, ignored: frozenset[str]) -> None:
    first = sources[0]
    for other in sources[1:]:
        for key in settings():
            values = [_setting(source.config, key) for source in (first, other)]
            if key in ignored or values[0] == values[1]:
                continue
            fix = "merge runs of equal settings only"
            if key == "dataset":
                fix = "say where that dataset is now with --dataset, if both are the same one"
            raise ConfigError(
                f"{key} is {_shown(values[0])} in {first.folder} and {_shown(values[1])} in {other.folder}",
                fix=fix,
            )


def _check_weights(sources: Sequence[Source]) -> None:
    first = sources[0]
    for other in sources[1:]:
        mine, theirs = (_digests(source.manifest) for source in (first, other))
        for file in sorted(mine.keys() | theirs.keys()):
            if mine.get(file) != theirs.get(file):
                raise ConfigError(
                    f"the weights {file} are {_shown(mine.get(file))} in {first.folder} and "
                    f"{_shown(theirs.get(file))} in {other.folder}",
                    fix="merge runs of the same model files only",
                )


def _digests(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{role}/{file}": digest
        for role, model in manifest["models"].items()
        for file, digest in model["sha256"].items()
    }


def _setting(config: RunConfig, key: str) -> object:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)


def _by_scenario(sources: Sequence[Source]) -> dict[str, list[Found]]:
    found: dict[str, list[Found]] = {}
    for source in sources:
        for scenario in source.store.scenarios():
            entry = Found(
                source=source,
                scenario=scenario,
                outcome=source.outcomes.get(scenario.id),
                history=source.store.history(scenario.id),
            )
            found.setdefault(scenario.id, []).append(entry)
    return found


def _keep(found: Sequence[Found]) -> Found:
    """The best of what the runs have of one scenario, the first of equals."""
    best = max(found, key=lambda entry: entry.rank)
    for other in found:
        _require_same_question(
            best.scenario, other.scenario, f"{best.source.folder} and {other.source.folder}"
        )
        both_chose = best.rank[0] and other.rank[0]
        if other is not best and both_chose and _takes(best) != _takes(other):
            raise ConfigError(
                f"{best.scenario.id} is finished with different takes in {best.source.folder} and in "
                f"{other.source.folder}",
                fix="leave one of these runs out",
            )
    return best


def _takes(found: Found) -> tuple[object, ...]:
    """Equal where two finished scenarios are: the videos, and all that is recorded but the time it took."""
    assert found.outcome is not None
    return (
        found.outcome.chosen,
        found.outcome.stopped,
        tuple(_without_time(attempt) for attempt in found.history.attempts),
        tuple(_digest(found.source.folder / attempt.video_path) for attempt in found.history.attempts),
    )


def _without_time(attempt: Attempt) -> Attempt:
    critique = None if attempt.critique is None else replace(attempt.critique, seconds=0.0)
    return replace(attempt, critique=critique, timings={})


def _digest(video: Path) -> str:
    return file_digest(_existing(video))


def _existing(video: Path) -> Path:
    if not video.is_file():
        raise StoreError(f"{video} is recorded but missing", fix="put it back, or leave this run out")
    return video


def _require_same_question(one: Scenario, other: Scenario, where: str) -> None:
    for name in ("text", "category", "output_name"):
        values = getattr(one, name), getattr(other, name)
        if values[0] != values[1]:
            raise ConfigError(
                f"{one.id} is another scenario in {where}: its {name} is {values[0]!r} and {values[1]!r}",
                fix="merge runs over one dataset only, and name that dataset with --dataset",
            )


def _fps(source: Source, kept: Mapping[str, Found]) -> float:
    spec = source.manifest.get("resolved", {}).get("spec", {})
    return float(spec.get("fps") or next(iter(kept.values())).scenario.prefix.fps)


def _scenarios(
    config: RunConfig, kept: Mapping[str, Found], *, fps: float, required: bool
) -> tuple[Scenario, ...]:
    """In the dataset's order, with its clips; those of the runs where the dataset is not to be read."""
    if not required and not config.dataset.is_dir():
        return tuple(found.scenario for found in kept.values())
    there = open_dataset(config.dataset).scenarios(fps)
    if absent := sorted(kept.keys() - {scenario.id for scenario in there}):
        raise ConfigError(
            f"{config.dataset} lacks {len(absent)} scenarios of these runs, the first {absent[0]}",
            fix="name the dataset that the runs were made on with --dataset",
        )
    for scenario in there:
        if scenario.id in kept:
            source = kept[scenario.id]
            where = f"{source.source.folder} and {config.dataset}"
            _require_same_question(source.scenario, scenario, where)
    return tuple(s for number, s in enumerate(there) if s.id in kept or _within(number, config.limit))


def _within(number: int, limit: int | None) -> bool:
    return limit is None or number < limit


def _write(
    folder: Path,
    config: RunConfig,
    scenarios: Sequence[Scenario],
    kept: Mapping[str, Found],
    sources: Sequence[Source],
    progress: Callable[[int, int], None],
) -> Merged:
    folder.mkdir()
    write_config(config, folder / "config.toml")
    write_manifest(folder / MANIFEST, _manifest(config, kept, sources))
    traced = _write_trace(folder / TRACE, kept, sources)
    with RunStore.create(folder, scenarios) as store:
        for number, scenario in enumerate(scenarios):
            progress(number, len(scenarios))
            if scenario.id in kept:
                _copy(store, kept[scenario.id])
        progress(len(scenarios), len(scenarios))
        store.opened(path for source in sources for path in source.store.opened_files())
        pending = tuple(scenario.id for scenario in store.pending())
    return Merged(
        num_scenarios=len(scenarios),
        num_finished=len(scenarios) - len(pending),
        num_takes=sum(len(found.history.attempts) for found in kept.values()),
        has_trace=traced,
        pending=pending,
    )


def _copy(store: RunStore, found: Found) -> None:
    scenario_id = found.scenario.id
    if found.history.plan is not None:
        store.plan(scenario_id, found.history.plan)
    moved = []
    for attempt in found.history.attempts:
        path = store.video_path(scenario_id, attempt.index)
        shutil.copyfile(_existing(found.source.folder / attempt.video_path), store.folder / path)
        moved.append(replace(attempt, video_path=path))
        store.attempt(scenario_id, moved[-1])
    if found.outcome is not None:
        store.outcome(replace(found.outcome, attempts=tuple(moved)))


def _write_trace(path: Path, kept: Mapping[str, Found], sources: Sequence[Source]) -> bool:
    """The work on what was kept, run after run on one clock; none where a run has no trace of its own.

    Runs that went side by side are laid end to end, so that the time is that of one machine. A trace of some
    of the takes would be read as one of all, hence none.
    """
    givers = [source for source in sources if any(found.source is source for found in _with_takes(kept))]
    if not all((source.folder / TRACE).is_file() for source in givers):
        return False
    spans, end_s = [], 0.0
    for source in givers:
        own = [s for s in read_trace(source.folder / TRACE) if kept[s.scenario_id].source is source]
        shift_s = end_s - min((span.start_s for span in own), default=0.0)
        spans += [replace(s, start_s=s.start_s + shift_s, end_s=s.end_s + shift_s) for s in own]
        end_s = max((span.end_s for span in spans), default=end_s)
    write_trace(path, spans)
    return True


def _with_takes(kept: Mapping[str, Found]) -> Iterator[Found]:
    return (found for found in kept.values() if found.history.attempts)


def _manifest(config: RunConfig, kept: Mapping[str, Found], sources: Sequence[Source]) -> dict[str, Any]:
    """That of the first run, with the settings of the whole and what each run gave."""
    first = sources[0].manifest
    given = Counter(id(found.source) for found in _with_takes(kept))
    merged = [
        {
            "run": source.folder.name,
            "shard": source.config.shard,
            "started": source.manifest.get("started"),
            "num_scenarios": given[id(source)],
            # What the first run's part of this file does not say: figures of this run rest on it too.
            "differs": {
                part: changed
                for part in ("code", "machine", "packages", "denoiser")
                if (changed := _changed(first.get(part, {}), source.manifest.get(part, {})))
            },
        }
        for source in sources
    ]
    seeds: dict[str, Any] = {}
    for source in sources:
        seeds |= source.manifest.get("seeds", {})
    return {**first, "config": dataclasses.asdict(config), "seeds": seeds, "merged": merged}


def _changed(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `other` that are not those of `first`; None where only `first` has one."""
    return {key: other.get(key) for key in [*first, *other] if first.get(key) != other.get(key)}
