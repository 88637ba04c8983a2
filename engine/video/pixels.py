"""One decoded frame as upright RGB and back: colour matrix, range, display matrix; what is refused by name.

Knows no file layout and imports no torch. Invariant: a grey or colour that fills a frame comes out right to
one level, at every size.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Interpolation

from engine.errors import VideoError
from engine.types import Frames

# By default swscale takes a fast path that drops every second chroma sample and rounds down: grey 128 becomes
# 126 where the size changes. With these flags it is right, and equal on every CPU.
_FULL_CHROMA, _ACCURATE_ROUNDING, _BIT_EXACT = 0x2000 | 0x4000, 0x40000, 0x80000  # SWS_*; PyAV 17 names none
_EXACT: Final = _FULL_CHROMA | _ACCURATE_ROUNDING | _BIT_EXACT
_SHRINK, _GROW = int(Interpolation.AREA) | _EXACT, int(Interpolation.BICUBIC) | _EXACT

BT601_MATRIX: Final = 6  # AVCOL_SPC_SMPTE170M
LIMITED_RANGE: Final = 1  # AVCOL_RANGE_MPEG
BT709: Final = 1  # of primaries and of transfer functions
_SWS_BT601: Final = 5  # SWS_CS_ITU601: swscale numbers the matrices otherwise

# Numbers of ITU-T H.273. What is not listed is shown as it is: near enough to BT.709 for eight bits of video.
_TRANSFERS = {
    8: "linear",
    9: "log",
    10: "log",
    16: "PQ (smpte2084)",
    17: "SMPTE 428",
    18: "HLG (arib-std-b67)",
}
_PRIMARIES = {8: "film", 9: "BT.2020", 10: "SMPTE 428", 11: "DCI-P3", 12: "Display P3"}
_MATRICES = {
    0: "GBR",
    8: "YCgCo",
    10: "BT.2020 constant luminance",
    11: "SMPTE 2085",
    12: "chroma-derived",
    13: "chroma-derived constant luminance",
    14: "ICtCp",
}

_TONE_MAP = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
)
_TO_BT709 = "zscale=p=bt709:t=bt709:m=bt709:r=tv,format=yuv420p"
Orientation = tuple[bool, bool, bool]
UPRIGHT: Orientation = (False, False, False)

_NEARLY = 0.02  # about a degree


def upright_rgb(
    path: Path,
    frame: Any,
    width: int,
    height: int,
    turned: Orientation = UPRIGHT,
    *,
    like_opencv: bool = False,
) -> Frames:
    """uint8 RGB [H, W, 3] of a frame as it decodes, at this size once it is turned as `orientation` tells.

    By area averaging when shrinking, bicubic otherwise. Frames that state no matrix are taken as BT.601, as
    FFmpeg and OpenCV take them. `like_opencv` rounds as its reader does, at the frame's own size. Raises
    VideoError for colours that eight bits of BT.709 cannot show.
    """
    refuse_colours(path, frame)
    transposed, across, down = turned
    target = (height, width) if transposed else (width, height)
    shrinks = target[0] * target[1] < frame.width * frame.height
    rgb: Frames = frame.to_ndarray(
        format="rgb24",
        width=target[0],
        height=target[1],
        interpolation=int(Interpolation.BICUBIC) if like_opencv else _SHRINK if shrinks else _GROW,
    )
    if transposed:
        rgb = rgb.swapaxes(0, 1)
    return np.ascontiguousarray(rgb[:: -1 if down else 1, :: -1 if across else 1])


def upright_size(path: Path, frame: Any) -> tuple[int, int]:
    """Width and height of the frame as it is shown."""
    return (frame.height, frame.width) if is_turned(path, frame) else (frame.width, frame.height)


def is_turned(path: Path, frame: Any) -> bool:
    """Whether a display matrix turns it by a quarter, either way: its width is shown as its height."""
    return orientation(path, frame)[0]


def is_upright(path: Path, frame: Any) -> bool:
    """Whether the frame is shown as it decodes: no display matrix turns or mirrors it."""
    return not any(orientation(path, frame))


def is_mirrored(path: Path, frame: Any) -> bool:
    """Whether a display matrix mirrors it, once or with a turn."""
    transposed, across, down = orientation(path, frame)
    return transposed ^ across ^ down


def yuv_of(rgb: Frames) -> Any:
    """uint8 RGB [H, W, 3] as an av.VideoFrame in yuv420p: BT.601, limited range."""
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return picture.reformat(
        format="yuv420p",
        interpolation=_GROW,
        dst_colorspace=_SWS_BT601,
        dst_color_range=LIMITED_RANGE,
    )


def refuse_colours(path: Path, frame: Any) -> None:
    """Raise VideoError for a transfer function, primaries or a matrix that this would show wrongly."""
    transfer, primaries = _TRANSFERS.get(frame.color_trc), _PRIMARIES.get(frame.color_primaries)
    kind = frame.format
    is_yuv = not kind.is_rgb and len(kind.components) >= 3
    matrix = _MATRICES.get(frame.colorspace) if is_yuv else None
    found = [
        f"{what} {name}"
        for what, name in (("transfer function", transfer), ("primaries", primaries), ("matrix", matrix))
        if name
    ]
    if found:
        chain = _TONE_MAP if transfer else _TO_BT709
        raise VideoError(
            f"{path} has colours that are not read here: {', '.join(found)}",
            fix=f'convert it to BT.709: ffmpeg -i {path.name} -vf "{chain}" -crf 10 converted.mp4',
        )


def orientation(path: Path, frame: Any) -> Orientation:
    """Whether rows and columns are exchanged, then whether it is mirrored across and down, to show the frame.

    From the display matrix (ISO/IEC 14496-12, 6.2.2): a point (x, y) is shown at (a x + c y, b x + d y). Its
    angle alone, which is all that `frame.rotation` gives, says nothing of mirrors. Raises VideoError for any
    other angle.
    """
    # PyAV ties a frame to its side data in a cycle, in which it waits for Python's collector, which counts
    # objects and not bytes. The matrix goes into a copy too, and that one may wait: it has 16 x 16 pixels.
    data = frame.reformat(width=16, height=16).side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    if a == b == c == d == 0:  # written by some cameras; players show such a clip as it is
        return False, False, False
    straight, crossed = math.hypot(a, d), math.hypot(b, c)
    if crossed <= _NEARLY * straight and a and d:
        return False, a < 0, d < 0
    if straight <= _NEARLY * crossed and b and c:
        return True, c < 0, b < 0
    raise VideoError(
        f"{path} is to be shown turned by {abs(frame.rotation)} degrees; quarter turns and mirrors are read",
        fix="encode it upright",
    )
