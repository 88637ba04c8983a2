"""Joins the run folders of shards into one run folder: what several processes or GPUs made of one dataset.

Knows no model. Invariant: the sources are only read, and the new folder appears whole or not at all. Runs of
other settings are refused, and of other weights or versions unless the user accepts that.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.build.opened_dataset import open_dataset
from engine.build.shards import Source, check_settings, differences, distinct, read_source
from engine.errors import ConfigError, StoreError
from engine.runs.changes import listed
from engine.runs.choices import command, users_choices
from engine.runs.folder import place_of_scout, take_lock
from engine.runs.manifest import MANIFEST, write_manifest
from engine.runs.states import put_states, states_bytes
from engine.runs.store import RunStore
from engine.runs.trace import Span
from engine.runs.trace_file import TRACE, read_trace, write_trace
from engine.settings.config import RunConfig, write_config
from engine.types import Attempt, History, Outcome, Scenario, Scout
from engine.words import counted
from kernels.files import file_digest, whole_file

OWN_SETTINGS = frozenset(
    {
        *("out", "shard", "schedule.replies", "denoise.vae_chunk"),
        *("memory.vram", "memory.fit"),
        *("memory.text_encoder", "memory.blocks", "memory.experts"),
    }
)
"""In which the runs of one merge may differ: where they lie, and what each card had memory for, which changes
neither takes nor replies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one run has of a scenario."""

    source: Source
    scenario: Scenario
    outcome: Outcome | None
    history: History

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """The larger one is kept: a chosen take, the user's first, then a failure, then the most takes."""
        chosen = self.outcome is not None and self.outcome.chosen is not None
        users = self.outcome is not None and self.outcome.overruled is not None
        return chosen, users, self.outcome is not None, len(self.history.attempts)

    @property
    def users_take(self) -> int | None:
        return None if self.outcome is None or self.outcome.overruled is None else self.outcome.chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What the new folder holds."""

    num_scenarios: int
    num_finished: int
    num_takes: int
    has_trace: bool
    pending: tuple[str, ...]
    users_choices: tuple[str, ...]  # a line for each take that the user chose


def merge(
    runs: Sequence[Path],
    out: Path,
    *,
    dataset: Path | None = None,
    accept_changes: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Write the run folder `out`; `dataset` is where the dataset of the runs lies now, if it was moved.

    Of a scenario that several runs hold the finished one is kept, of unfinished ones the one with most takes.
    Scenarios of the dataset that no run holds become pending. ConfigError for settings, questions or takes
    that differ; StoreError where `out` holds something, a take is missing or another one, or models, prefixes
    or versions differ: with `accept_changes` these are noted in the manifest instead.
    """
    out = out.expanduser().absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise StoreError(f"{out} holds something already", fix="choose another folder with --out")
    with ExitStack() as opened:
        sources = [read_source(folder, opened) for folder in distinct(runs)]
        check_settings(sources, ignored=OWN_SETTINGS | ({"dataset"} if dataset else set()))
        config = replace(sources[0].config, out=out, shard=None)
        if dataset is not None:
            config = replace(config, dataset=dataset.expanduser().absolute())
        kept = {scenario_id: _keep(found) for scenario_id, found in _by_scenario(sources).items()}
        there = _scenarios(config, kept, fps=_fps(sources[0], kept), required=dataset is not None)
        found = differences(sources, there or ())
        if found and not accept_changes:
            raise _differ(sources[0].folder, found)
        scenarios = tuple(one.scenario for one in kept.values()) if there is None else there
        facts = _manifest(config, kept, sources, found)
        with _partial(out) as partial:
            merged = _write(partial / "run", config, scenarios, kept, sources, facts, progress)
            (partial / "run").replace(out)
    return merged


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
        if best.users_take is not None and other.users_take not in (None, best.users_take):
            raise ConfigError(
                f"of {best.scenario.id} you chose take {best.users_take} in {best.source.folder} and take "
                f"{other.users_take} in {other.source.folder}",
                fix=f"end one of the choices: {command(other.source.folder, best.scenario.id, None)}",
            )
    return best


def _takes(found: Found) -> tuple[object, ...]:
    """Equal where two finished scenarios are: the videos, and all that is recorded but the time it took."""
    assert found.outcome is not None
    return (
        found.outcome.own.chosen,
        found.outcome.own.stopped,
        tuple(_without_time(attempt) for attempt in found.history.attempts),
        _looks(found.history),
        tuple(file_digest(found.source.folder / attempt.video_path) for attempt in found.history.attempts),
    )


def _looks(history: History) -> tuple[Scout, ...]:
    """The scouts, without the time that they took."""
    return tuple(replace(scout, timings={}, video_path=Path()) for scout in history.scouts)


def _without_time(attempt: Attempt) -> Attempt:
    critique = None if attempt.critique is None else replace(attempt.critique, seconds=0.0)
    return replace(attempt, critique=critique, timings={})


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


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """A folder beside `out` to make it in; what a killed merge left there is removed first."""
    folder = out.with_name(f".{out.name}.merge.partial")
    folder.mkdir(parents=True, exist_ok=True)
    with take_lock(folder):
        shutil.rmtree(folder / "run", ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _differ(first: Path, found: Mapping[Path, Sequence[str]]) -> StoreError:
    folder, lines = next(iter(found.items()))
    made = (
        "is not what its manifest says" if folder == first else f"was made with something else than {first}"
    )
    more = "" if len(found) == 1 else f"\n  and so for {len(found) - 1} more of the runs"
    return StoreError(
        f"{folder} {made}:{listed(lines)}{more}",
        fix="leave it out; or merge with --accept-changes, which notes it in the manifest",
    )


def _scenarios(
    config: RunConfig, kept: Mapping[str, Found], *, fps: float, required: bool
) -> tuple[Scenario, ...] | None:
    """In the dataset's order, with its clips; None where the dataset is not there and need not be."""
    if not required and not config.dataset.is_dir():
        return None
    there = open_dataset(config.dataset).scenarios(fps)
    if absent := sorted(kept.keys() - {scenario.id for scenario in there}):
        raise ConfigError(
            f"{config.dataset} lacks {counted(len(absent), 'scenario')} of these runs, the first {absent[0]}",
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
    facts: Mapping[str, Any],
    progress: Callable[[int, int], None],
) -> Merged:
    folder.mkdir()
    write_config(config, folder / "config.toml")
    write_manifest(folder / MANIFEST, facts)
    traced = _write_trace(folder / TRACE, kept, sources)
    with RunStore.create(folder, scenarios) as store:
        for number, scenario in enumerate(scenarios):
            progress(number, len(scenarios))
            if scenario.id in kept:
                _copy(store, kept[scenario.id])
        progress(len(scenarios), len(scenarios))
        store.opened(path for source in sources for path in source.store.opened_files())
        pending = tuple(scenario.id for scenario in store.pending())
        chosen = tuple(users_choices(store.outcomes().values()))
    return Merged(
        num_scenarios=len(scenarios),
        num_finished=len(scenarios) - len(pending),
        num_takes=sum(len(found.history.attempts) for found in kept.values()),
        has_trace=traced,
        pending=pending,
        users_choices=chosen,
    )


def _copy(store: RunStore, found: Found) -> None:
    scenario_id = found.scenario.id
    if found.history.plan is not None:
        store.plan(scenario_id, found.history.plan)
    digests = found.source.store.scouts.digests()
    for scout in found.history.scouts:
        path, preview = (
            place_of_scout(store.folder, scenario_id, scout.number),
            found.source.folder / scout.video_path,
        )
        if preview.is_file():  # one that is gone is missing in the report, as it is there
            with whole_file(store.folder / path) as part:
                shutil.copyfile(preview, part)
        store.scouts.add(scenario_id, replace(scout, video_path=path), digests[scenario_id, scout.number])
    moved = []
    for attempt in found.history.attempts:
        path = store.video_path(scenario_id, attempt.index)
        with whole_file(store.folder / path) as part:
            shutil.copyfile(found.source.folder / attempt.video_path, part)
        put_states(store.folder, path, states_bytes(found.source.folder, attempt.video_path))
        moved.append(replace(attempt, video_path=path))
        store.attempt(scenario_id, moved[-1])
    if found.outcome is not None:
        own = replace(found.outcome.own, attempts=tuple(moved))
        store.outcome(own if found.users_take is None else own.with_take(found.users_take))


def _write_trace(path: Path, kept: Mapping[str, Found], sources: Sequence[Source]) -> bool:
    """The work on what was kept, run after run on one clock; none where a run has no trace of its own.

    Runs that went side by side are laid end to end, so that the time is that of one machine. A trace of some
    of the takes would be read as one of all, hence none.
    """
    givers = [source for source in sources if any(found.source is source for found in _with_takes(kept))]
    if not all(any(True for _ in read_trace(source.folder)) for source in givers):
        return False
    write_trace(path, _end_to_end(kept, givers))
    return True


def _end_to_end(kept: Mapping[str, Found], givers: Sequence[Source]) -> Iterator[Span]:
    end_s = 0.0
    for source in givers:
        names = {scenario_id for scenario_id, found in kept.items() if found.source is source}
        first_s = min((s.start_s for s in read_trace(source.folder) if s.scenario_id in names), default=0.0)
        shift_s = end_s - first_s
        for span in read_trace(source.folder):
            if span.scenario_id in names:
                yield span._replace(start_s=span.start_s + shift_s, end_s=span.end_s + shift_s)
                end_s = max(end_s, span.end_s + shift_s)


def _with_takes(kept: Mapping[str, Found]) -> Iterator[Found]:
    return (found for found in kept.values() if found.history.attempts)


def _manifest(
    config: RunConfig,
    kept: Mapping[str, Found],
    sources: Sequence[Source],
    differ: Mapping[Path, Sequence[str]],
) -> dict[str, Any]:
    """That of the first run, with the settings and prefixes of the whole and what each run gave."""
    first = sources[0].manifest
    given = Counter(id(found.source) for found in _with_takes(kept))
    merged = [
        {
            "run": source.folder.name,
            "shard": source.config.shard,
            "started": source.manifest.get("started"),
            "num_scenarios": given[id(source)],
            "changes": list(differ.get(source.folder, ())),  # as the user accepted them
            "resumed": source.manifest.get("resumed", []),
            # What the first run's part of this file does not say: figures of this run rest on it too.
            "differs": {
                part: changed
                for part in ("code", "machine", "packages", "denoiser")
                if (changed := _changed(first.get(part, {}), source.manifest.get(part, {})))
            },
        }
        for source in sources
    ]
    whole = {
        part: {key: value for source in reversed(sources) for key, value in source.manifest[part].items()}
        for part in ("seeds", "prefixes")
        if all(part in source.manifest for source in sources)
    }
    return {**first, **whole, "config": dataclasses.asdict(config), "merged": merged}


def _changed(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `other` that are not those of `first`; None where only `first` has one."""
    return {key: other.get(key) for key in [*first, *other] if first.get(key) != other.get(key)}
