"""Where the answer starts, told by the pixels of a scene that moves; and what they do not tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from sliding import SlidingSquare

from bench.submission.convert import Cut
from bench.submission.cuts import UnclearCutError, agree, find_cut
from engine.errors import VideoError
from engine.types import Frames
from engine.video.files import write_mp4

SCENE = SlidingSquare(0).render(1, "left")
GIVEN, ANSWER = SCENE[:24], SCENE[24:]
OTHER = SlidingSquare(1).render(2, "right")
REST = np.repeat(ANSWER[-1:], 24, axis=0)


def found(folder: Path, clip: Frames, given: Frames = GIVEN, fps: float = 8.0) -> Cut:
    write_mp4(folder / "given.mp4", given, 8.0)
    write_mp4(folder / "clip.mp4", clip, fps)
    return find_cut(folder / "clip.mp4", folder / "given.mp4")


def altered(frames: Frames) -> Frames:
    """As a model may give it: another size, brighter, noisy."""
    random = np.random.default_rng(0)
    large = np.stack([cv2.resize(frame, (96, 64)) for frame in frames]).astype(int)
    return np.clip(large + 8 + random.normal(0, 5, large.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [lambda frames: frames, altered], ids=["equal", "altered"])
@pytest.mark.parametrize("shown", [0, 1, 4, 8, 16, 24])
def test_the_part_that_shows_the_conditioning_clip_is_found(
    tmp_path: Path, shown: int, change: Callable[[Frames], Frames]
) -> None:
    clip = np.concatenate([GIVEN[24 - shown :], ANSWER, REST])  # never told by the length
    cut = found(tmp_path, change(clip))
    assert cut.is_seen and cut.skip_s == (shown / 8 if shown > 1 else 0.0)


def test_another_frame_rate_is_compared_by_time(tmp_path: Path) -> None:
    clip = np.repeat(np.concatenate([GIVEN[-12:], ANSWER]), 3, axis=0)
    assert found(tmp_path, clip, fps=24.0).skip_s == 1.5


def test_a_conditioning_clip_may_lack_a_frame(tmp_path: Path) -> None:
    assert found(tmp_path, np.concatenate([GIVEN[1:], ANSWER]), GIVEN[1:]).skip_s == 23 / 8


def test_a_clip_without_room_for_a_prefix_is_not_compared(tmp_path: Path) -> None:
    cut = found(tmp_path, OTHER[:40])
    assert not cut.is_seen and cut.skip_s == 0


@pytest.mark.parametrize(
    ("clip", "given", "why"),
    [
        (np.concatenate([255 - GIVEN, ANSWER]), GIVEN, "not the conditioning clip's: cropped, or of another"),
        (SCENE, np.repeat(GIVEN[:1], 24, axis=0), "nothing moves in the conditioning clip"),
        (
            np.concatenate([GIVEN[:6], GIVEN[:6], ANSWER]),
            np.concatenate([GIVEN[:6]] * 4),
            "several of its moments could be the end",
        ),
    ],
    ids=["another picture", "still", "repeated"],
)
def test_what_pixels_do_not_tell_is_refused(tmp_path: Path, clip: Frames, given: Frames, why: str) -> None:
    with pytest.raises(UnclearCutError, match=why) as error:
        found(tmp_path, clip, given)
    assert "--prefix keep, --prefix cut or --skip-seconds" in error.value.fix


def test_without_a_clip_to_compare_with_nothing_is_guessed(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", SCENE, 8.0)
    with pytest.raises(UnclearCutError, match=r"8\.00 s long, and the dataset has no conditioning clip"):
        find_cut(tmp_path / "clip.mp4", None)


def test_unclear_clips_go_by_the_others_only_if_those_agree_and_are_more() -> None:
    clear, by_length = Cut(skip_s=3.0, reason="", is_seen=True), Cut(skip_s=0.0, reason="")
    unclear, damaged = UnclearCutError("nothing moves", fix="say"), VideoError("damaged", fix="replace")
    decided = agree({"a": clear, "b": clear, "c": unclear, "d": damaged, "e": by_length})
    assert decided["c"] == Cut(skip_s=3.0, reason="first 3 s cut as in the 2 clips of which it is clear")
    assert decided["d"] is damaged and decided["e"] is by_length
    other = Cut(skip_s=1.0, reason="", is_seen=True)
    assert agree({"a": clear, "b": other, "c": unclear})["c"] is unclear
    assert agree({"a": clear, "b": unclear})["b"] is unclear
    assert agree({"a": by_length, "b": by_length, "c": unclear})["c"] is unclear
