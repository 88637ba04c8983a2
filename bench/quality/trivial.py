"""The baselines that any generator must beat: the last frame frozen, and the prefix's motion extrapolated.

Uses the 3 s prefix alone, no text and no model. Frames are uint8 RGB [T, H, W, 3].

    python -m bench.quality.trivial DATASET --baseline frozen|extrapolated --fps 8 --out FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.console import user_error
from engine.datasets.physics_iq import open_dataset
from engine.errors import RetakeError
from engine.types import ANSWER_SECONDS, Frames
from engine.video.files import read_frames, write_mp4
from engine.words import counted

MIN_SPEED_PX = 0.35  # per frame; below it, flow is noise
MIN_CHANGE = 8  # grey levels between the last two frames, or against the background
MIN_AREA_PX = 12
MIN_TURN = np.deg2rad(1.5)  # per frame; below it, the fitted rotation is noise
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One thing that moves: its pixels in the last frame and its motion per frame, [2, 3] affine."""

    mask: Mask
    motion: NDArray[np.float64]


def frozen(prefix: Frames, num_frames: int) -> Frames:
    """The last prefix frame, `num_frames` times."""
    return np.repeat(prefix[-1:], num_frames, axis=0)


def extrapolated(prefix: Frames, num_frames: int) -> Frames:
    """Each region that moves at the end of the prefix goes on with its velocity and rotation, both constant.

    Regions are cut from the last frame by dense optical flow and move as rigid bodies; the ground they
    uncover is what the prefix showed there before them. Without motion this is `frozen`.
    """
    last = prefix[-1]
    height, width = last.shape[:2]
    layers = _layers(prefix)
    ground = _ground(prefix, layers)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    totals = [np.eye(3) for _ in layers]
    for index in range(num_frames):
        frame = ground.astype(np.float32)
        for place, layer in enumerate(layers):
            totals[place] = np.vstack([layer.motion, (0.0, 0.0, 1.0)]) @ totals[place]
            cover = cv2.warpAffine(layer.mask.astype(np.float32), totals[place][:2], (width, height))[
                ..., None
            ]
            moved = cv2.warpAffine(last, totals[place][:2], (width, height), borderMode=cv2.BORDER_REPLICATE)
            frame = frame * (1 - cover) + moved.astype(np.float32) * cover
        frames[index] = frame.round().astype(np.uint8)
    return frames


BASELINES: dict[str, Callable[[Frames, int], Frames]] = {"frozen": frozen, "extrapolated": extrapolated}


def _ground(prefix: Frames, layers: Sequence[_Layer]) -> Frames:
    """The last frame [H, W, 3] without its layers: behind them, the median of the frames before they came.

    Where a layer has been at each earlier time follows from its motion, taken backwards; what it covered all
    the time is filled in from the surroundings.
    """
    ground: Frames = prefix[-1].copy()
    if not layers:
        return ground
    height, width = ground.shape[:2]
    covered = np.zeros(prefix.shape[:3], bool)
    for layer in layers:
        total = np.eye(3)
        mask = cv2.dilate(layer.mask.astype(np.uint8), np.ones((5, 5), np.uint8))  # with anti-aliased edges
        for index in reversed(range(len(prefix))):
            moved = cv2.warpAffine(
                mask, total[:2], (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
            )
            covered[index] |= moved > 0
            total = np.vstack([layer.motion, (0.0, 0.0, 1.0)]) @ total
    behind: Mask = covered[-1]
    hidden: Mask = np.logical_and.reduce(covered, axis=0)
    history = prefix[:, behind].astype(np.float32)  # [T, n, 3]
    history[covered[:, behind] & ~hidden[behind]] = np.nan  # an all-NaN median would warn
    ground[behind] = np.nanmedian(history, axis=0).astype(np.uint8)
    return np.asarray(cv2.inpaint(ground, hidden.astype(np.uint8), 3, cv2.INPAINT_TELEA), np.uint8)


def _layers(prefix: Frames) -> list[_Layer]:
    """The connected regions that move over the last step of the prefix."""
    if len(prefix) < 2:
        return []
    background = np.median(prefix, axis=0).astype(np.uint8)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (*prefix[-2:], background)]
    before, now, still = (np.asarray(image, np.uint8) for image in gray)
    flow_back = _flow(now, before)  # defined on the pixels of the last frame
    fast = np.hypot(flow_back[..., 0], flow_back[..., 1]) > MIN_SPEED_PX
    seen = np.maximum(_difference(now, before), _difference(now, still)) > MIN_CHANGE
    mask = cv2.morphologyEx((fast & seen).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, labels = cv2.connectedComponents(mask)
    regions = (labels == label for label in range(1, count))
    return [_Layer(region, _rigid_motion(region, flow_back)) for region in _large(regions)]


def _large(regions: Iterator[Mask]) -> Iterator[Mask]:
    return (region for region in regions if np.count_nonzero(region) >= MIN_AREA_PX)


def _flow(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Dense flow [H, W, 2] in pixels: source(p) is seen at target(p + flow)."""
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    estimator.setFinestScale(0)
    return np.asarray(estimator.calc(source, target, None), np.float32)


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.absdiff(a, b), np.uint8)


def _rigid_motion(region: Mask, flow_back: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rotation and translation per frame of a region, [2, 3]: the fit to its flow, without change of size."""
    rows, columns = np.nonzero(region)
    now = np.stack([columns, rows], axis=1).astype(np.float64)
    before = now + flow_back[rows, columns]
    fit, _ = cv2.estimateAffinePartial2D(before, now, method=cv2.RANSAC, ransacReprojThreshold=1.0)
    angle = float(np.arctan2(fit[1, 0], fit[0, 0])) if fit is not None else 0.0
    if abs(angle) < MIN_TURN:
        shift = np.median(now - before, axis=0)
        return np.array([(1.0, 0.0, shift[0]), (0.0, 1.0, shift[1])])
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    shift = np.median(now - before @ turn.T, axis=0)
    return np.column_stack([turn, shift])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.trivial", description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--baseline", choices=sorted(BASELINES), required=True)
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        count = write_baseline(options.baseline, options.dataset, options.out, options.fps)
    except RetakeError as error:
        return user_error(error)
    print(f"wrote {counted(count, 'clip')} to {options.out}")
    return 0


def write_baseline(name: str, dataset: Path, out: Path, fps: float) -> int:
    """One clip per scenario under its submission name; existing clips are kept. Returns their number."""
    scenarios = open_dataset(dataset).scenarios(fps)
    for scenario in scenarios:
        path = out / scenario.output_name
        if not path.exists():
            prefix = read_frames(scenario.prefix)
            write_mp4(path, BASELINES[name](prefix, round(fps * ANSWER_SECONDS)), fps)
    return len(scenarios)


if __name__ == "__main__":
    sys.exit(main())
