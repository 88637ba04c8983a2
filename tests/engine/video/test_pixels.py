"""Colours and orientation of decoded frames, against the formulas of the standards in fp64."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.sidedata.sidedata import Type as SideData

from engine.errors import VideoError
from engine.video.files import probe, read_frames, write_mp4
from engine.video.pixels import is_upright, upright_rgb, upright_size, yuv_of

LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114)}  # ITU-T H.273: red and blue of BT.709 and BT.601
GREYS = [(y, 128, 128) for y in range(16, 236)]
SATURATED = [(81, 90, 240), (145, 54, 34), (41, 240, 110), (210, 16, 146), (170, 166, 16), (106, 202, 222)]
SIZES = {"equal": (16, 12), "half": (8, 6), "odd": (11, 7), "double": (32, 24), "squeezed": (24, 6)}


def rgb_of(y: int, u: int, v: int, matrix: int, full: bool) -> np.ndarray:
    red, blue = LUMA[matrix]
    luma = y / 255 if full else (y - 16) / 219
    b_y, r_y = ((u - 128) / 255, (v - 128) / 255) if full else ((u - 128) / 224, (v - 128) / 224)
    r, b = luma + 2 * (1 - red) * r_y, luma + 2 * (1 - blue) * b_y
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(255 * np.array([r, g, b]), 0, 255)


def constant(yuv: tuple[int, int, int], matrix: int, full: bool, kind: str) -> av.VideoFrame:
    frame = av.VideoFrame(16, 12, kind)
    ten_bits = kind.endswith("10le")
    for plane, level in zip(frame.planes, yuv, strict=True):
        sample = struct.pack("<H", level * 4) if ten_bits else bytes([level])
        plane.update(sample * (plane.buffer_size // len(sample)))
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [6, 1], ids=["bt601", "bt709"])
def test_constant_colours_are_right_at_every_size(size: tuple[int, int], full: bool, matrix: int) -> None:
    greys = GREYS if size in (SIZES["equal"], SIZES["half"]) else GREYS[::7]
    for yuv in greys + SATURATED:
        found = upright_rgb(Path("a.mp4"), constant(yuv, matrix, full, "yuv420p"), *size)
        assert found.shape == (size[1], size[0], 3)
        away = np.abs(found - rgb_of(*yuv, matrix, full)).max()
        assert away <= 0.51, f"{yuv}: {found[0, 0]}"


@pytest.mark.parametrize("kind", ["yuv422p", "yuv444p", "yuv420p10le"])
def test_constant_colours_are_right_in_other_formats(kind: str) -> None:
    for yuv in GREYS[::20] + SATURATED:
        for size in ((16, 12), (11, 7)):
            found = upright_rgb(Path("a.mp4"), constant(yuv, 1, False, kind), *size)
            assert np.abs(found - rgb_of(*yuv, 1, False)).max() <= 1


def test_a_take_is_written_in_the_matrix_and_range_that_its_header_states(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 60, 40), (0, 0, 0), (255, 255, 255), (128,) * 3]
    for width, height in ((32, 16), (1920, 1088)):
        path = tmp_path / f"{width}.mp4"
        shown = colours if width < 100 else colours[:1]
        write_mp4(path, np.stack([np.full((height, width, 3), c, np.uint8) for c in shown]), 8.0, crf=1)
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
        stated = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        assert stated == (6, 1, 1, 1)
        found = read_frames(path)[:, height // 2, width // 2].astype(int)
        assert np.abs(found - shown).max() <= 3  # of 4:2:0 limited range: steps of 255 / 219, and the codec's


def test_what_the_evaluator_sees_can_be_read_too(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    write_mp4(tmp_path / "a.mp4", frames, 8.0)
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    for frame in read_frames(tmp_path / "a.mp4", like_opencv=True):
        assert np.array_equal(frame, capture.read()[1][..., ::-1])


def test_a_colour_is_encoded_to_the_nearest_level() -> None:
    for rgb in [(g, g, g) for g in range(0, 256, 5)] + [
        (255, 0, 0),
        (0, 255, 0),
        (10, 250, 30),
        (90, 110, 140),
    ]:
        r, g, b = (channel / 255 for channel in rgb)
        y = 0.299 * r + 0.587 * g + 0.114 * b
        wanted = (16 + 219 * y, 128 + 224 * (b - y) / 1.772, 128 + 224 * (r - y) / 1.402)
        planes = yuv_of(np.full((12, 16, 3), rgb, np.uint8)).planes
        found = [bytes(plane)[0] for plane in planes]
        assert np.abs(np.array(found) - wanted).max() <= 0.51


CORNERS = np.zeros((16, 32, 3), np.uint8)
CORNERS[:8, :16], CORNERS[:8, 16:], CORNERS[8:, :16], CORNERS[8:, 16:] = 40, 90, 150, 210
ONE = 1 << 16


def with_matrix(source: Path, path: Path, *abcd: float) -> Path:
    """The mp4 with this display matrix in its track header (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (round(value * ONE) for value in abcd)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.fixture
def corners(tmp_path: Path) -> Path:
    write_mp4(tmp_path / "corners.mp4", np.stack([CORNERS] * 3), 8.0)
    return tmp_path / "corners.mp4"


near = math.radians(89.7)
SHOWN = {
    "as it is": ((1, 0, 0, 1), CORNERS),
    "zeros": ((0, 0, 0, 0), CORNERS),
    "clockwise": ((0, 1, -1, 0), np.rot90(CORNERS, -1)),
    "nearly clockwise": (
        (math.cos(near), math.sin(near), -math.sin(near), math.cos(near)),
        np.rot90(CORNERS, -1),
    ),
    "upside down": ((-1, 0, 0, -1), np.rot90(CORNERS, 2)),
    "counterclockwise": ((0, -1, 1, 0), np.rot90(CORNERS)),
    "mirrored": ((-1, 0, 0, 1), CORNERS[:, ::-1]),
    "flipped": ((1, 0, 0, -1), CORNERS[::-1]),
    "transposed": ((0, 1, 1, 0), CORNERS.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), CORNERS.swapaxes(0, 1)[::-1, ::-1]),
}


@pytest.mark.parametrize(("matrix", "shown"), SHOWN.values(), ids=SHOWN)
def test_a_display_matrix_is_applied(
    corners: Path, tmp_path: Path, matrix: tuple[float, ...], shown: np.ndarray
) -> None:
    path = with_matrix(corners, tmp_path / "clip.mp4", *matrix)
    clip = probe(path)
    assert (clip.height, clip.width) == shown.shape[:2]
    assert np.abs(read_frames(clip)[0].astype(int) - shown)[::15, ::15].max() <= 6
    half = read_frames(clip, width=clip.width // 2, height=clip.height // 2)[0].astype(int)
    assert np.abs(half - shown[::2, ::2])[::7, ::7].max() <= 6


def test_any_other_angle_is_refused(corners: Path, tmp_path: Path) -> None:
    path = with_matrix(corners, tmp_path / "clip.mp4", 0.7071, 0.7071, -0.7071, 0.7071)
    with pytest.raises(VideoError, match=r"clip\.mp4 is to be shown turned by 45 degrees"):
        probe(path)


def test_a_frame_without_a_matrix_is_upright() -> None:
    frame: Any = SimpleNamespace(side_data={}, width=32, height=16)
    frame.reformat = lambda **_: frame
    assert is_upright(Path("a"), frame) and upright_size(Path("a"), frame) == (32, 16)
    mirrored = struct.pack("=9i", -ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
    frame.side_data[SideData.DISPLAYMATRIX] = mirrored
    assert not is_upright(Path("a"), frame) and upright_size(Path("a"), frame) == (32, 16)


@pytest.mark.parametrize(
    ("primaries", "transfer", "matrix", "named", "filters"),
    [
        (9, 18, 9, "transfer function HLG (arib-std-b67), primaries BT.2020", "tonemap"),
        (9, 16, 9, "transfer function PQ (smpte2084), primaries BT.2020", "tonemap"),
        (9, 14, 9, "primaries BT.2020", "zscale=p=bt709:t=bt709:m=bt709"),
        (12, 1, 1, "primaries Display P3", "zscale=p=bt709"),
        (1, 1, 14, "matrix ICtCp", "zscale"),
    ],
)
def test_colours_that_eight_bits_do_not_show_are_refused_by_name(
    tmp_path: Path, primaries: int, transfer: int, matrix: int, named: str, filters: str
) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = primaries, transfer, matrix
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(32, 16, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError) as error:
        probe(path)
    assert error.value.problem.endswith(f"not read here: {named}")
    assert (
        error.value.fix.startswith("convert it to BT.709: ffmpeg -i clip.mp4") and filters in error.value.fix
    )


@pytest.mark.parametrize("tags", [(1, 1, 1), (2, 2, 2), (6, 6, 6), (5, 5, 5), (1, 13, 1), (1, 14, 9)])
def test_ordinary_colours_are_read(tags: tuple[int, int, int]) -> None:
    frame = constant((100, 120, 140), 6, False, "yuv420p")
    frame.color_primaries, frame.color_trc, frame.colorspace = tags
    assert upright_rgb(Path("a"), frame, 16, 12).shape == (12, 16, 3)
