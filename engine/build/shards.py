"""The runs of a merge: read, and whether they are parts of one run.

Compares and decides nothing of a scenario. Invariant: runs of other settings are never joined; what else
differs is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, StoreError
from engine.runs.changes import changes, prefix_changes
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.takes import refuse_changed
from engine.settings.config import RunConfig, read_config, settings
from engine.types import Outcome, Scenario
from engine.video.files import is_readable


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A run folder with what was read of it; `store` is open for reading."""

    folder: Path
    config: RunConfig
    manifest: Mapping[str, Any]
    store: RunStore
    outcomes: Mapping[str, Outcome]


def distinct(runs: Sequence[Path]) -> list[Path]:
    counts = Counter(folder.expanduser().resolve() for folder in runs)
    for folder, count in counts.items():
        if count > 1:
            raise ConfigError(f"{folder} is named {count} times", fix="name every run once")
    if not counts:
        raise ConfigError("no run is named", fix="name the run folders to join")
    return list(counts)


def read_source(folder: Path, opened: ExitStack) -> Source:
    """StoreError for what is no run, is damaged, or lacks a take; the store is closed with `opened`."""
    store = opened.enter_context(RunStore.open(folder, read_only=True))
    path = folder / MANIFEST
    if not path.is_file():
        raise StoreError(f"{path} does not exist", fix="merge runs made by `retake run`, which writes it")
    manifest = read_manifest(path)
    refuse_changed(folder, store.changed_takes(is_readable), "; or leave this run out")
    return Source(
        folder=folder,
        config=read_config(folder),
        manifest=manifest,
        store=store,
        outcomes=store.outcomes(),
    )


def check_settings(sources: Sequence[Source], *, ignored: frozenset[str]) -> None:
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


def _setting(config: RunConfig, key: str) -> object:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)


def differences(sources: Sequence[Source], scenarios: Sequence[Scenario]) -> dict[Path, list[str]]:
    """By run, what it rests on that is another in the first run, in its own settings file or on the disk.

    scenarios: those of the dataset as it is now, empty where it is not there to be compared.
    """
    first = sources[0]
    found = {}
    for source in sources:
        told = {"config": source.manifest.get("config")}
        lines = changes(told, {"config": asdict(source.config)})
        if source is not first:
            pair = (first.manifest, source.manifest)
            older, newer = sorted(pair, key=lambda manifest: int(manifest.get("manifest_version", 1)))
            lines += changes(_without_config(older), _without_config(newer))
        lines += prefix_changes(source.manifest, scenarios)
        if lines:
            found[source.folder] = lines
    return found


def _without_config(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of several runs are compared one by one; those of shards differ in their places."""
    return {key: value for key, value in manifest.items() if key != "config"}
