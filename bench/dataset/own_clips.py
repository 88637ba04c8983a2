"""Whether a folder of the user's own clips can be run: texts, names, and each clip as the engine reads it.

Invariant: nothing is written; a clip is in order here exactly if a run takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.dataset.check import Line, TreeReport
from engine.datasets.folder import SUFFIXES, ClipFolder, open_dataset
from engine.errors import DatasetError, VideoError
from engine.types import Clip, Scenario
from engine.video.files import stream_frames
from engine.words import counted

KIND: Final = "own clips"
_UNREADABLE_FPS: Final = 24.0
"""Stands in for the rate of a clip that cannot be read, of which its fault is told and nothing else."""


def holds_clips(root: Path) -> bool:
    """Whether clips lie in `root` itself, as they do in no benchmark tree."""
    return root.is_dir() and any(entry.suffix.lower() in SUFFIXES for entry in root.iterdir())


def check_clips(
    root: Path, *, deep: bool = False, progress: Callable[[str], None] | None = None
) -> TreeReport:
    """Check the folder; with `deep` every frame is decoded. `progress` is told each clip looked at."""
    try:
        dataset = open_dataset(root)
    except DatasetError as error:
        fault = Line(what="texts", found="not readable", faults=(f"{error.problem}; fix: {error.fix}",))
        return TreeReport(tree=root, kind=KIND, num_cases=0, lines=(fault,))
    scenarios = dataset.scenarios(_UNREADABLE_FPS)
    faults = []
    for scenario in scenarios:
        if progress is not None:
            progress(scenario.prefix.path.name)
        faults += _faults(dataset, scenario, deep=deep)
    good = [scenario.prefix for scenario in scenarios if scenario.prefix.width]
    lines = (
        Line(what="texts", found=f"{counted(len(scenarios), 'clip')} with a text"),
        Line(what="clips", found=_described(good), faults=tuple(faults)),
    )
    return TreeReport(tree=root, kind=KIND, num_cases=len(scenarios), lines=lines)


def _faults(dataset: ClipFolder, scenario: Scenario, *, deep: bool) -> list[str]:
    try:
        dataset.check(scenario)
        if deep:
            for _ in stream_frames(scenario.prefix):
                pass
    except VideoError as error:
        return [f"{error.problem}; fix: {error.fix}"]
    return []


def _described(clips: list[Clip]) -> str:
    """ "3 readable: 3.0 to 8.2 s, 24 to 30 fps, 640x360, 1280x720"."""
    if not clips:
        return "none readable"
    seconds, rates = [clip.seconds for clip in clips], [clip.fps for clip in clips]
    sizes = sorted({(clip.width, clip.height) for clip in clips})
    shown = ", ".join(f"{width}x{height}" for width, height in sizes[:4]) + (", ..." if sizes[4:] else "")
    return (
        f"{len(clips)} readable: {min(seconds):.1f} to {max(seconds):.1f} s, "
        f"{min(rates):g} to {max(rates):g} fps, {shown}"
    )
