"""Which reader a dataset gets, and which of its scenarios a run has.

Imports no model library, so that its faults are told before those are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine import plugins
from engine.datasets.folder import SUFFIXES
from engine.datasets.physics_iq import TREES
from engine.errors import DatasetError, VideoError
from engine.protocols import Dataset
from engine.settings.config import RunConfig
from engine.settings.notation import shard_of
from engine.types import Scenario, VideoSpec
from engine.video.prefix import frames_before_end
from engine.words import counted

DATASETS = "engine.datasets"
MOST_NAMED, LEVELS = 3, 3
"""Of the datasets that may have been meant: told, and looked for above."""


def open_dataset(root: Path) -> Dataset:
    """Physics-IQ where there is a descriptions.csv or its tree, else a folder of the user's clips.

    DatasetError for missing texts and clips; no clip is opened.
    """
    require_dataset(root)
    reader = plugins.load(DATASETS, "physics_iq" if is_benchmark(root) else "folder")
    opened: Dataset = reader.open_dataset(root)
    return opened


def require_dataset(root: Path) -> None:
    """DatasetError for a folder without clips where a dataset lies in it or around it: that one was meant."""
    if not root.is_dir() or is_benchmark(root) or _clips(root):
        return
    near = [one for one in (*sorted(root.iterdir()), *root.absolute().parents[:LEVELS]) if _is_dataset(one)]
    if near:
        meant = ", or ".join(map(str, near[:MOST_NAMED]))
        raise DatasetError(
            f"{root} holds neither clips nor a benchmark",
            fix=f"put clips with their texts into it, or give the dataset near it: {meant}",
        )


def _is_dataset(folder: Path) -> bool:
    """A benchmark, or clips of which some have a text: takes in the folders of a run have none."""
    try:
        return folder.is_dir() and (
            is_benchmark(folder)
            or any(
                (folder / "prompts.csv").is_file() or clip.with_suffix(".txt").is_file()
                for clip in _clips(folder)
            )
        )
    except OSError:  # a folder of somebody else's
        return False


def _clips(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES]


def is_benchmark(root: Path) -> bool:
    trees = [root / tree / "split-videos" for tree in ("", *TREES)]
    return (root / "descriptions.csv").is_file() or any(tree.is_dir() for tree in trees)


def wanted(
    scenarios: Sequence[Scenario], config: RunConfig, only: Sequence[str] | None
) -> tuple[Scenario, ...]:
    """The `only` ones by id, as of a run that goes on; None: those of the run's limit and shard. DatasetError
    where one is there no more."""
    if only is None:
        part, parts = shard_of(config.shard) if config.shard else (1, 1)
        return tuple(scenarios[: config.limit][part - 1 :: parts])  # round robin: parts alike in kind
    by_id = {scenario.id: scenario for scenario in scenarios}
    if absent := [scenario_id for scenario_id in only if scenario_id not in by_id]:
        raise DatasetError(
            f"{config.dataset} lacks {counted(len(absent), 'scenario')} of this run, the first {absent[0]}",
            fix="put the dataset of the run back in its place",
        )
    return tuple(by_id[scenario_id] for scenario_id in only)


def refusals(
    dataset: Dataset, scenarios: Sequence[Scenario], spec: VideoSpec
) -> Iterator[tuple[str, VideoError]]:
    """Id and reason of each that is no scenario, or has less of a prefix than videos of `spec` go on from."""
    for scenario in scenarios:
        try:
            dataset.check(scenario)
            frames_before_end(scenario.prefix, fps=spec.fps, count=spec.prefix_frames)
        except VideoError as error:
            yield scenario.id, error
