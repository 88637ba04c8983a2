"""Where the answer starts in a clip: behind the part that shows the conditioning clip, told by its pixels.

Length says nothing: a model that continues a video may give the prefix, a part of it or none. Invariant: what
pixels do not tell is refused with the ways out, never guessed.
Legend: K frames of the conditioning clip . h, w pixels of small greys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.submission.convert import Cut
from engine.errors import VideoError
from engine.types import ANSWER_SECONDS
from engine.video.files import probe, stream_frames
from engine.video.times import read_timeline
from engine.words import counted

Greys = NDArray[np.float32]
"""[K, h, w], levels from 0 to 255."""

_SMALL_PX = (64, 36)
_SPARE_S = 0.1  # a clip as long as the answer has no room for more; models that work in blocks give 5.04 s
_MOVES = 10.0  # grey levels between the darkest and the brightest that a pixel becomes
_FEWEST_PX = 4
_SAME, _OTHER = 0.35, 0.6  # of the distance between two moments of the conditioning clip
_NOISE = 12.0  # grey levels: still pixels that differ more are of another picture
_WAYS_OUT = "say where the answer starts with --prefix keep, --prefix cut or --skip-seconds"


class UnclearCutError(VideoError):
    """Pixels do not tell where the answer starts."""


def find_cut(source: Path, conditioning: Path | None) -> Cut:
    """Compare a clip with the conditioning clip of its case.

    Raises UnclearCutError, VideoError as `probe`.
    """
    timeline = read_timeline(source)
    if timeline.seconds <= ANSWER_SECONDS + _SPARE_S:
        return Cut(skip_s=0.0, reason="as long as the answer, taken from the first frame on")
    if conditioning is None:
        raise _unclear(
            f"{timeline.seconds:.2f} s long, and the dataset has no conditioning clip to compare with"
        )
    wanted = probe(conditioning)
    times = np.arange(wanted.num_frames) / wanted.fps
    shown = np.searchsorted(np.array(timeline.times_s), times + 0.5 / wanted.fps) - 1  # halfway to the next
    num_shown = answer_start(_greys(conditioning, range(wanted.num_frames)), _greys(source, shown.tolist()))
    if num_shown == 0:
        reason = "does not show the conditioning clip, taken from the first frame on"
        return Cut(skip_s=0.0, reason=reason, is_seen=True)
    skip_s = num_shown / wanted.fps
    reason = f"first {skip_s:.3g} s show the conditioning clip and were cut"
    return Cut(skip_s=skip_s, reason=reason, is_seen=True)


def answer_start(conditioning: Greys, clip: Greys) -> int:
    """How many frames at the start of `clip` show the end of `conditioning`; 0 for none or one.

    Both are of as many frames at the same times. One frame alone is the input picture of an image-to-video
    model, or as near to that as the next frame is. Compared are pixels that move in the conditioning clip, in
    units of the distance between two of its moments.
    Raises UnclearCutError when several places fit, one fits by half, or nothing moves.
    """
    assert conditioning.shape == clip.shape, f"{conditioning.shape} {clip.shape}"
    num_frames = len(conditioning)
    moving = np.ptp(conditioning, axis=0) > _MOVES
    if moving.sum() < _FEWEST_PX:
        raise _unclear("nothing moves in the conditioning clip, so it cannot be told where it ends")
    if not moving.all():  # of the first frame: whatever it is, the rest of the picture is not yet another
        away = (clip[0] - conditioning.mean(0))[~moving]
        clip = clip - np.median(away)  # brighter or darker as a whole
        if np.abs(away - np.median(away)).mean() > _NOISE:
            raise _unclear("its picture is not the conditioning clip's: cropped, or of another scene")
    ours, theirs = clip[:, moving], conditioning[:, moving]
    apart = _distances(theirs, theirs)
    unit = float(apart[np.triu_indices(num_frames, max(1, num_frames // 8))].mean())
    between = _distances(ours, theirs)
    fit = np.array([np.diagonal(between, num_frames - k).mean() for k in range(1, num_frames + 1)]) / unit
    best = int(fit.argmin())
    if fit[best] >= _OTHER:
        return 0
    rivals = np.flatnonzero(fit < fit[best] + _OTHER - _SAME)
    if len(rivals) != rivals[-1] - rivals[0] + 1:  # neighbours of the best are near it, others not
        raise _unclear("several of its moments could be the end of the conditioning clip")
    if fit[best] > _SAME:
        raise _unclear("its start resembles the conditioning clip, but not closely")
    return best + 1 if best else 0


def agree(found: Mapping[str, Cut | VideoError]) -> dict[str, Cut | VideoError]:
    """Where most clips of a folder are clear and agree, those that are unclear are taken to be like them."""
    cuts = Counter(cut.skip_s for cut in found.values() if isinstance(cut, Cut) and cut.is_seen)
    unclear = [name for name, cut in found.items() if isinstance(cut, UnclearCutError)]
    if len(cuts) != 1 or cuts.total() <= len(unclear):
        return dict(found)
    (skip_s,) = cuts
    reason = f"first {skip_s:.3g} s cut as in the {counted(cuts.total(), 'clip')} of which it is clear"
    return {**found, **{name: Cut(skip_s=skip_s, reason=reason) for name in unclear}}


def _distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean difference in grey levels of each row of `a` from each row of `b`."""
    return np.stack([np.abs(b - row).mean(1) for row in a])


def _greys(path: Path, indices: range | list[int]) -> Greys:
    clip = probe(path)
    unique, inverse = np.unique(np.asarray(indices), return_inverse=True)
    frames = stream_frames(clip, width=_SMALL_PX[0], height=_SMALL_PX[1], indices=unique.tolist())
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames])[inverse]


def _unclear(problem: str) -> UnclearCutError:
    return UnclearCutError(problem, fix=_WAYS_OUT)
