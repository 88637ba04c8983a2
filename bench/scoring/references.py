"""Where the two real takes of each case lie in a benchmark tree, and a key for what is computed from them.

Opens no clip but for its header. Original and Verified trees have one layout and one reader; which of them
was read is recorded, and a folder that holds both is refused: signal from one is never used for the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bench.files import write_whole
from bench.scoring.clip_stream import num_considered
from bench.scoring.file_digests import sha256
from bench.scoring.view_metrics import reduced_size
from engine.datasets.physics_iq import Description, benchmark_tree, cases_of, rival_trees
from engine.errors import ScorerError, VideoError
from engine.runs.digests import FileDigests
from engine.video.files import probe

ALGORITHM = 4  # raise it when masks, reduction, metrics, what is refused or the form of stored entries change
COMPUTED = "computed"  # in place of the digest of a mask clip that does not ship


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One take-1 case: where its real clips and masks lie."""

    row: Description
    takes: tuple[Path, Path]
    masks: tuple[Path, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceKey:
    """What the two takes of a case are, by content, and how they are reduced."""

    size: tuple[int, int]  # (w, h), reduced
    num_frames: int
    fps: float
    digests: tuple[str, str, str, str]  # take 1, take 2, their masks

    @property
    def text(self) -> str:
        """In hex; equal keys give equal numbers, bit for bit."""
        parts = [ALGORITHM, cv2.__version__, np.__version__]
        parts += [*self.size, self.num_frames, self.fps, *self.digests]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def references(dataset: Path, rows: Sequence[Description], fps: float) -> dict[str, Reference]:
    """By scenario id. Take 2 is found by view and scene, so reduced datasets need no fixed id offset.

    Raises ScorerError when there are no testing clips at `fps`, a case has no second take, or `dataset` holds
    both trees.
    """
    tree, rate = dataset_tree(dataset), int(fps)
    testing = tree / "split-videos" / "testing" / f"{rate}FPS"
    masks = tree / "video-masks" / "real" / f"{rate}FPS"
    if not testing.is_dir():
        rates = sorted(entry.name for entry in testing.parent.glob("*FPS"))
        raise ScorerError(
            f"the clips have {fps:g} frames per second and {testing} does not exist; "
            f"found: {', '.join(rates) or 'none'}",
            fix=f"download the {rate} FPS testing clips, or score clips of one of the rates found",
        )
    second = {(row.view, row.scene): row for row in rows if row.take == "take-2"}
    found: dict[str, Reference] = {}
    for row in cases_of(rows):
        other = second.get((row.view, row.scene))
        if other is None:
            raise ScorerError(
                f"descriptions.csv has no take-2 row for {row.scenario_id} ({row.scene})",
                fix="restore the benchmark's descriptions.csv; take 2 is the physical variance",
            )
        found[row.scenario_id] = Reference(
            row=row,
            takes=(
                testing / row.file_name("testing-videos", rate),
                testing / other.file_name("testing-videos", rate),
            ),
            masks=(
                masks / row.file_name("video-masks", rate),
                masks / other.file_name("video-masks", rate),
            ),
        )
    return found


def dataset_tree(dataset: Path) -> Path:
    """The benchmark tree that `dataset` is or holds. Raises ScorerError when it holds both."""
    tree, both = benchmark_tree(dataset), rival_trees(dataset)
    if both:
        raise ScorerError(
            f"{dataset} holds {' and '.join(both)}; a score is of one of them",
            fix=f"give one tree, such as {dataset / both[0]}",
        )
    return tree


def reference_key(
    reference: Reference, fps: float, digests: FileDigests, sizes: Path | None = None
) -> ReferenceKey:
    """Raises VideoError when a take is missing or take 1 has no readable header.

    `sizes`, a folder, remembers the size of clips by content: opening one in 4K takes a tenth of a second.
    """
    takes = [sha256(path, digests) for path in reference.takes]
    masks = [sha256(path, digests) if path.is_file() else COMPUTED for path in reference.masks]
    return ReferenceKey(
        size=_size(reference.takes[0], None if sizes is None else sizes / f"{takes[0]}.json"),
        num_frames=num_considered(fps),
        fps=fps,
        digests=(takes[0], takes[1], masks[0], masks[1]),
    )


def _size(clip: Path, place: Path | None) -> tuple[int, int]:
    """The size at which `clip` and what is compared with it are scored."""
    width, height = (None if place is None else _remembered(place)) or _asked(clip, place)
    size = reduced_size(width, height)
    if min(size) < 1:
        raise VideoError(
            f"{clip} has {width}x{height} pixels; a quarter of that is compared",
            fix="download the benchmark's clips again",
        )
    return size


def _remembered(place: Path) -> tuple[int, int] | None:
    try:
        width, height = json.loads(place.read_bytes())
        return int(width), int(height)
    except (OSError, ValueError, TypeError):  # absent or damaged
        return None


def _asked(clip: Path, place: Path | None) -> tuple[int, int]:
    header = probe(clip)
    if place is not None:
        write_whole(place, json.dumps((header.width, header.height)).encode())
    return header.width, header.height


def revision(keys: Iterable[ReferenceKey]) -> str:
    """One digest for the real clips and masks of these cases; independent of their order."""
    lines = sorted(" ".join(key.digests) for key in keys)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
