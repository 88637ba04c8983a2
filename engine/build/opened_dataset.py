"""Which reader a dataset gets. Imports no model library, so that its faults are told before those are."""

from __future__ import annotations

from pathlib import Path

from engine import plugins
from engine.datasets.physics_iq import TREES
from engine.protocols import Dataset

DATASETS = "engine.datasets"


def open_dataset(root: Path) -> Dataset:
    """Physics-IQ where there is a descriptions.csv or its tree, else a folder of the user's clips.

    DatasetError for missing texts and clips; no clip is opened.
    """
    reader = plugins.load(DATASETS, "physics_iq" if is_benchmark(root) else "folder")
    opened: Dataset = reader.open_dataset(root)
    return opened


def is_benchmark(root: Path) -> bool:
    trees = [root / tree / "split-videos" for tree in ("", *TREES)]
    return (root / "descriptions.csv").is_file() or any(tree.is_dir() for tree in trees)
