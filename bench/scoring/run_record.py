"""Whether a run's clips and the dataset are those that the run was made with, by its store and manifest.

Reads clips as bytes only and scores nothing. Invariant: what a run did not record is called neither equal nor
different.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.scoring.case_scoring import CHOSEN
from engine.datasets.physics_iq import Description, benchmark_tree
from engine.runs.changes import prefix_change
from engine.runs.choices import users_choices
from engine.runs.folder import DATABASE
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.takes import takes_of
from engine.settings.config import BUNDLED
from engine.types import Scenario
from engine.words import command_line, counted
from kernels.files import file_digest

Clips = Mapping[str, Sequence[tuple[int, Path]]]
"""By scenario id: attempt number or CHOSEN, and file."""


def run_changes(run: Path, dataset: Path, rows: Sequence[Description], clips: Clips) -> list[str]:
    """What is not as it was when the run was made, in words; nothing of a folder that is no run.

    rows: the cases to be scored. Raises StoreError for a damaged run.
    """
    if not (run / DATABASE).is_file():
        return []
    manifest = read_manifest(run / MANIFEST)
    with RunStore.open(run, read_only=True) as store:
        asked = {scenario.id: scenario for scenario in store.scenarios()}
        found: list[str] = []
        for row in rows:
            if row.scenario_id in asked:
                found += _question(asked[row.scenario_id], row, manifest, benchmark_tree(dataset))
        return [*found, *_clips(store, clips)]


def recorded_takes(run: Path) -> dict[str, Any] | None:
    """What the scores are of, to be noted with them; None of a folder that is no run."""
    if not (run / DATABASE).is_file():
        return None
    with RunStore.open(run, read_only=True) as store:
        return takes_of(store)


def chosen_by_user(run: Path) -> list[str]:
    """A line for each chosen take that is the user's choice, not the loop's; none of what is no run."""
    if not (run / DATABASE).is_file():
        return []
    with RunStore.open(run, read_only=True) as store:
        return users_choices(store.outcomes().values())


def seen_scenes(run: Path, scenes: Iterable[str]) -> list[str]:
    """A line for each part of these simulated scenes that the run's bundled models were trained or tuned on:
    their scores there measure nothing. None of other models, of footage, and of what is no run."""
    config = read_manifest(run / MANIFEST).get("config", {}) if (run / DATABASE).is_file() else {}
    if BUNDLED not in (config.get(part, {}).get("name") for part in ("generator", "critic")):
        return []
    from engine.demo.scenes import DEFAULT_WORLD
    from engine.demo.scenes.seeds import SEEN, first_held_out, part_of  # they import the simulator

    names = set(scenes)
    found = Counter(part for name in names if (part := part_of(name)) in SEEN)
    return [
        f"{num} of {counted(len(names), f'scene is a {part} scene', f'scenes are {part} scenes')} of the "
        "bundled models, on which they are not to be measured; for held-out ones: "
        + command_line("retake", "scenes", "OUT", "--seed", first_held_out(DEFAULT_WORLD))
        for part, num in sorted(found.items())
    ]


def accepted_changes(run: Path) -> list[str]:
    """What `--accept-changes` noted when the run was resumed or merged."""
    manifest = read_manifest(run / MANIFEST)
    return [
        f"{what}: {change}"
        for what in ("resumed", "merged")
        for entry in manifest.get(what, [])
        for change in entry.get("changes", [])
    ]


def _question(asked: Scenario, row: Description, manifest: Mapping[str, Any], tree: Path) -> Iterator[str]:
    if asked.text != row.text:
        yield f"text of scenario {asked.id}"
    if asked.output_name != row.output_name:
        yield f"file name of scenario {asked.id}: {asked.output_name}, now {row.output_name}"
    fps = asked.prefix.fps
    if not fps.is_integer():
        return
    prefix = tree / "split-videos" / "conditioning" / f"{fps:g}FPS"
    yield from prefix_change(manifest, asked.id, prefix / row.file_name("conditioning-videos", int(fps)))


def _clips(store: RunStore, clips: Clips) -> Iterator[str]:
    """Files that are not the takes that the store knows; those of older runs have no digest."""
    digests, outcomes = store.video_digests(), store.outcomes()
    for scenario_id, files in clips.items():
        outcome = outcomes.get(scenario_id)
        for label, path in files:
            chosen = None if outcome is None else outcome.chosen
            number = chosen if label == CHOSEN else label
            digest = None if number is None else digests.get((scenario_id, number))
            if digest is not None and path.is_file() and file_digest(path) != digest:
                yield f"file {path.relative_to(store.folder)}"
