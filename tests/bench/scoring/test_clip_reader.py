"""One decode gives OpenCV's frames wherever it can, two do elsewhere; a damaged file gives none of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from odd_clips import with_made_up_frame
from plain_reader import frames_bgr

from bench.scoring import clip_reader
from bench.scoring.clip_reader import Kind, read_channel, read_clip, reads_alike
from engine.errors import VideoError
from engine.types import Frames
from engine.video.files import write_mp4
from engine.video.motion_masks import write_masks

BT601, BT709, BT2020 = 6, 1, 9
UNSTATED, LIMITED, FULL = 0, 1, 2
NUM_FRAMES = 7


def noise(height: int, width: int, num_frames: int = NUM_FRAMES) -> Frames:
    pictures = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(picture, (3, 3), 0) for picture in pictures])


def encoded(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    encoder: str = "libx264",
    pixel_format: str = "yuv420p",
    matrix: int = 2,
    color_range: int = UNSTATED,
) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=8)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def decoded_by_opencv(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each frame that the reader asked OpenCV for."""
    taken: list[int] = []
    read = clip_reader.read_by_opencv

    def counted(path: Path, threads: int = 1) -> Iterator[Frames]:
        for frame in read(path, threads):
            taken.append(len(frame))
            yield frame

    for kind in (Kind(codec="h264", pixel_format="yuv420p", matrix=2, color_range=UNSTATED),):
        assert reads_alike(kind)  # asked once a process: its sample is none of a test's frames
    monkeypatch.setattr(clip_reader, "read_by_opencv", counted)
    return taken


def equals_opencv(path: Path, num_frames: int = NUM_FRAMES, threads: int = 1) -> bool:
    expected = list(islice(frames_bgr(path), num_frames))
    return equal(read_clip(path, num_frames, threads), expected)


def channel_equals_opencv(path: Path, num_frames: int = NUM_FRAMES) -> bool:
    expected = [frame[..., 0] for frame in islice(frames_bgr(path), num_frames)]
    return equal(read_channel(path, num_frames), expected)


def equal(found: Iterator[Frames], expected: Sequence[Frames]) -> bool:
    copied = [frame.copy() for frame in found]  # each is overwritten by the next
    return len(copied) == len(expected) and all(map(np.array_equal, copied, expected))


@pytest.mark.parametrize("threads", [1, 3])
def test_one_decode_gives_the_frames_of_opencv(
    tmp_path: Path, decoded_by_opencv: list[int], threads: int
) -> None:
    clip = encoded(tmp_path / "clip.mp4", noise(64, 80))
    assert equals_opencv(clip, threads=threads) and decoded_by_opencv == [64]  # the first frame, to compare
    assert equals_opencv(clip, num_frames=3)


@pytest.mark.parametrize("size", [(96, 128), (75, 131), (98, 202)])
@pytest.mark.parametrize(
    ("pixel_format", "matrix", "color_range"),
    [
        ("yuv420p", BT601, LIMITED),
        ("yuv420p", BT709, LIMITED),
        ("yuv420p", BT2020, LIMITED),
        ("yuvj420p", BT709, FULL),
        ("yuv444p", 2, UNSTATED),
        ("yuv420p10le", BT709, LIMITED),
    ],
)
def test_of_every_format_and_matrix(
    tmp_path: Path, size: tuple[int, int], pixel_format: str, matrix: int, color_range: int
) -> None:
    if pixel_format != "yuv444p":
        size = (size[0] // 2 * 2, size[1] // 2 * 2)
    clip = encoded(
        tmp_path / "clip.mp4",
        noise(*size),
        pixel_format=pixel_format,
        matrix=matrix,
        color_range=color_range,
    )
    assert equals_opencv(clip) and channel_equals_opencv(clip)


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of each frame that was converted whole."""
    taken: list[tuple[int, ...]] = []
    bgr = clip_reader.bgr

    def counted(frame: Any, out: Frames | None = None) -> Frames:
        taken.append((frame.height, frame.width))
        return bgr(frame, out)

    monkeypatch.setattr(clip_reader, "bgr", counted)
    return taken


@pytest.mark.parametrize(
    ("matrix", "color_range"), [(2, UNSTATED), (BT601, LIMITED), (BT709, LIMITED), (BT2020, LIMITED)]
)
@pytest.mark.parametrize("size", [(64, 80), (66, 90), (34, 46)])
def test_a_frame_without_colour_is_read_by_its_luma(
    tmp_path: Path, converted: list[tuple[int, ...]], size: tuple[int, int], matrix: int, color_range: int
) -> None:
    """Its first one is converted as well, to be compared with OpenCV's."""
    grays = np.stack([noise(*size)[..., 0]] * 3, axis=-1)
    clip = encoded(tmp_path / "clip.mp4", grays, matrix=matrix, color_range=color_range)
    assert channel_equals_opencv(clip)
    assert converted.count(size) == 1, "but samples, of another size"


def test_a_frame_of_some_colour_or_of_odd_sides_is_converted(
    tmp_path: Path, converted: list[tuple[int, ...]]
) -> None:
    grays = np.stack([noise(64, 80)[..., 0]] * 3, axis=-1)
    grays[3] = noise(64, 80)[3]
    clip = encoded(tmp_path / "clip.mp4", grays)
    assert channel_equals_opencv(clip)
    assert converted.count((64, 80)) == 1 + 1
    for size in ((65, 80), (64, 81)):
        odd = np.stack([noise(*size)[..., 0]] * 3, axis=-1)
        masks = encoded(tmp_path / f"{size}.mp4", odd, encoder="mpeg4")
        assert channel_equals_opencv(masks) and converted.count(size) == 1 + NUM_FRAMES


def test_luma_that_does_not_decide_is_not_gone_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that dithers, as FFmpeg has some."""
    assert clip_reader.luma_table.__wrapped__(BT709, LIMITED) is not None
    bgr = clip_reader.bgr

    def dithered(frame: Any) -> Frames:
        found = bgr(frame)
        found[::2, ::2] ^= 1
        return found

    monkeypatch.setattr(clip_reader, "bgr", dithered)
    assert clip_reader.luma_table.__wrapped__(BT709, LIMITED) is None


def test_masks_of_mpeg4_take_one_decode(tmp_path: Path, decoded_by_opencv: list[int]) -> None:
    masks = np.where(noise(66, 90)[..., 0] > 127, np.uint8(255), np.uint8(0))
    write_masks(tmp_path / "masks.mp4", masks, 8)
    assert reads_alike(Kind(codec="mpeg4", pixel_format="yuv420p", matrix=2, color_range=UNSTATED))
    del decoded_by_opencv[:]
    assert equals_opencv(tmp_path / "masks.mp4") and len(decoded_by_opencv) == 1
    assert channel_equals_opencv(tmp_path / "masks.mp4") and len(decoded_by_opencv) == 2


def test_a_black_beginning_hides_no_matrix(tmp_path: Path) -> None:
    """The first frame is the same by every matrix and whichever way it is turned; the others are not."""
    pictures = noise(64, 80)
    pictures[0] = 0
    for matrix in (BT601, BT709):
        assert equals_opencv(
            encoded(tmp_path / f"{matrix}.mp4", pictures, matrix=matrix, color_range=LIMITED)
        )


@pytest.mark.parametrize(("encoder", "suffix"), [("mjpeg", "avi"), ("libvpx-vp9", "webm"), ("ffv1", "mkv")])
def test_a_codec_that_was_not_compared_is_decoded_twice(
    tmp_path: Path, decoded_by_opencv: list[int], encoder: str, suffix: str
) -> None:
    pixel_format = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
    clip = encoded(tmp_path / f"a.{suffix}", noise(64, 80), encoder=encoder, pixel_format=pixel_format)
    assert equals_opencv(clip) and len(decoded_by_opencv) == 1 + NUM_FRAMES


def test_libraries_that_differ_are_found_out(
    tmp_path: Path, decoded_by_opencv: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the first frame is the same."""
    pictures = noise(64, 80)
    pictures[0] = 0
    clip = encoded(tmp_path / "clip.mp4", pictures)
    bgr = clip_reader.bgr
    monkeypatch.setattr(clip_reader, "bgr", lambda frame: bgr(frame) - (bgr(frame) > 60))
    monkeypatch.setattr(clip_reader, "reads_alike", reads_alike.__wrapped__)
    assert equals_opencv(clip) and len(decoded_by_opencv) > NUM_FRAMES


def test_a_frame_that_changes_its_size_is_read_as_opencv_does(tmp_path: Path) -> None:
    parts = [encoded(tmp_path / f"{width}.h264", noise(64, width, 4)) for width in (80, 96)]
    (tmp_path / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert equals_opencv(tmp_path / "both.h264", num_frames=8)
    assert channel_equals_opencv(tmp_path / "both.h264", num_frames=8)


def test_damage_behind_the_frames_that_count_is_told_too(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_mp4(clip, noise(64, 80, 24), 8.0)
    assert len(list(read_clip(clip, 1))) == 1
    with pytest.raises(VideoError, match="damaged in frame"):
        list(read_clip(with_made_up_frame(clip), 1))
