"""A small dataset on disk and submissions to it, for tests of the scorer."""

from __future__ import annotations

import shutil
from pathlib import Path

from sliding import SlidingSquare

from bench.scoring.view_metrics import CaseScore, reduce_clip, reduced_size, score_case
from engine.datasets.physics_iq import read_descriptions
from engine.demo.layout import write_dataset
from engine.runs.store import RunStore
from engine.types import Attempt, Frames, Outcome, Prompt, Scenario
from engine.video.motion_masks import masks_of

VIEWS = ("perspective-left", "perspective-right")
FPS = 8


def make_dataset(out: Path) -> Path:
    """Two scenes of two views, 64 x 64 pixels, 8 frames per second."""
    write_dataset(out, [SlidingSquare(0), SlidingSquare(1, category="Optics")], views=VIEWS)
    return out


def submit(dataset: Path, folder: Path, *, take: int = 1) -> dict[str, Path]:
    """The real clips of `take` as a submission; by scenario id."""
    folder.mkdir(parents=True)
    rows = read_descriptions(dataset)
    testing = dataset / "physics-IQ-benchmark" / "split-videos" / "testing" / "8FPS"
    second = {(row.view, row.scene): row for row in rows if row.take == f"take-{take}"}
    paths = {}
    for row in (row for row in rows if row.take == "take-1"):
        source = testing / second[(row.view, row.scene)].file_name("testing-videos", FPS)
        paths[row.scenario_id] = folder / row.output_name
        shutil.copyfile(source, paths[row.scenario_id])
    return paths


def record_takes(store: RunStore, scenario: Scenario, *clips: Path) -> None:
    """The scenario finished with `clips` as its takes, of which it chose the first."""
    prompt = Prompt(text="p", negative="", seed=0, revision=0)
    attempts = []
    for index, clip in enumerate(clips):
        path = store.video_path(scenario.id, index)
        shutil.copyfile(clip, store.folder / path)
        attempts.append(
            Attempt(index=index, round=index, sample=0, prompt=prompt, video_path=path, critique=None)
        )
        store.attempt(scenario.id, attempts[-1])
    store.outcome(Outcome(scenario_id=scenario.id, attempts=tuple(attempts), chosen=0))


def square_takes(take: int, view: str, number: int = 0) -> Frames:
    """The answer of 40 frames."""
    return SlidingSquare(number).render(take, view)[24:]


def score_frames(take1: Frames, take2: Frames, generated: Frames) -> CaseScore:
    """`score_case` from RGB frames [T, H, W, 3] of any sizes; masks are computed, no file is written."""
    size = reduced_size(take1.shape[2], take1.shape[1])
    clips = [reduce_clip(frames, masks_of(frames), size) for frames in (take1, take2, generated)]
    return score_case(*clips)
