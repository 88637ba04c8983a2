"""The Verified case score of a take in memory, as frames are generated: before H.264, so not a run's own."""

from __future__ import annotations

from bench.scoring.view_metrics import ReducedClip, reduce_clip, reduced_size, score_case
from engine.types import Frames
from engine.video.motion_masks import masks_of

RealTakes = tuple[ReducedClip, ReducedClip]
"""Take 1 and take 2 of a scene, reduced."""


def reduced(frames: Frames) -> ReducedClip:
    """A clip uint8 [T, H, W, 3] at the size at which the benchmark compares, with its motion masks."""
    height, width = frames.shape[1:3]
    return reduce_clip(frames, masks_of(frames), reduced_size(width, height))


def score_take(task: tuple[RealTakes, Frames]) -> float:
    """In percent; one argument, since processes map it over tasks."""
    takes, frames = task
    return score_case(*takes, reduced(frames)).score
