"""Streaming gives the bits of the in-memory functions, whatever the sizes; and refuses what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from plain_reader import load_generated, load_real

from bench.scoring.case_scoring import measure_clip
from bench.scoring.check.datasets import Made, make
from bench.scoring.clip_reader import read_channel, read_clip
from bench.scoring.clip_stream import packed_iou, stream_clip
from bench.scoring.reference_cache import ReferenceCache
from bench.scoring.references import reference_key, references
from bench.scoring.view_metrics import case_metrics, compare, iou
from engine.datasets.physics_iq import read_descriptions
from engine.errors import VideoError
from engine.runs.digests import FileDigests
from engine.video.files import write_mp4


def made(name: str, real_px: tuple[int, int], generated_px: tuple[int, int]) -> Made:
    """A name says more than sizes: which masks are absent, what does not move, what is too long."""
    return Made(
        name=name,
        fps=8,
        real_px=real_px,
        generated_px=generated_px,
        num_scenes=1,
        masks_ship="masks" not in name,
        still_views=name == "still",
        real_seconds=6.5 if "longer" in name else 5.0,
    )


MADE = (
    made("equal", (128, 96), (128, 96)),
    made("smaller", (192, 108), (96, 54)),
    made("larger, no masks", (96, 64), (200, 120)),
    made("odd", (103, 75), (67, 81)),
    made("odd, no masks", (67, 81), (103, 75)),
    made("still", (64, 48), (64, 48)),
    made("longer, no masks", (64, 48), (64, 48)),
)


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.name)
def test_streaming_is_bit_equal_to_clips_in_memory(made: Made, tmp_path: Path) -> None:
    (submission,) = make(made, tmp_path)
    for reference in references(tmp_path, read_descriptions(tmp_path), made.fps).values():
        key = reference_key(reference, made.fps, FileDigests(None))
        clip = submission / reference.row.output_name
        pairs = zip(reference.takes, reference.masks, strict=True)
        take1, take2 = (load_real(*pair, key.size, made.fps) for pair in pairs)
        expected = case_metrics(take1, take2, load_generated(clip, key.size, made.fps), compare(take1, take2))
        found = ReferenceCache(folder=None).use(reference, key, partial(measure_clip, clip=clip))
        assert found == expected


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noise") / "noise.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (12, 64, 80, 3), dtype=np.uint8)
    write_mp4(path, frames, 8.0)
    return path


def test_only_the_frames_that_count_are_decoded(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def counted(read: Any, path: Path, num_frames: int, threads: int) -> Iterator[np.ndarray]:
        for frame in read(path, num_frames, threads):
            taken.append(frame.shape)
            yield frame

    for read in (read_clip, read_channel):
        monkeypatch.setattr(f"bench.scoring.clip_stream.{read.__name__}", partial(counted, read))
    seen: list[np.ndarray] = []
    record = stream_clip(noise, (20, 16), 8.0, 5, seen.append)
    assert len(seen) == 5 == len(record.packed)
    assert taken.count((64, 80, 3)) == 5 and taken.count((64, 80)) == 5  # the clip's, and its masks'


def test_too_short_a_clip_is_refused(noise: Path) -> None:
    with pytest.raises(VideoError, match=r"noise\.mp4 has 12 frames that decode; the first 13"):
        stream_clip(noise, (20, 16), 8.0, 13, lambda frame: None)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match="not a readable video"):
        next(read_clip(tmp_path / "text.mp4", 1))


def test_reducing_a_frame_reduces_its_channels() -> None:
    """Masks are read from channel 0 after the reduction, as the official tool does; before it is the same."""
    frame = np.random.default_rng(3).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    for size in ((32, 24), (64, 48), (50, 31), (160, 120)):
        whole = cv2.resize(frame, size)[:, :, 0]
        assert np.array_equal(whole, cv2.resize(np.ascontiguousarray(frame[:, :, 0]), size))


def test_packed_masks_have_the_same_iou() -> None:
    random = np.random.default_rng(4)
    empty = np.zeros((7, 9), bool)
    for a, b in [(random.random((7, 9)) < 0.3, random.random((7, 9)) < 0.6), (empty, empty), (empty, ~empty)]:
        assert packed_iou(np.packbits(a), np.packbits(b)) == iou(a, b)


def test_nobody_else_reads_by_opencv_and_nobody_by_index() -> None:
    """It finds an index by the mean rate, which is another frame where the rate varies."""
    houses = [Path(__file__).parents[3] / name for name in ("bench", "engine", "export", "kernels")]
    texts = {path: path.read_text(encoding="utf-8") for house in houses for path in house.rglob("*.py")}
    assert [path.name for path, text in texts.items() if "VideoCapture(" in text] == ["clip_reader.py"]
    assert not [path for path, text in texts.items() if "CAP_PROP_POS" in text]
