"""A video file opened: its stream, its packets and the frames that they hold, or an error that says why not.

Knows nothing of colours, sizes or rates. Invariant: a file that ends before its own lengths say, and a frame
of which the decoder made up a part, are refused; what is no frame (a packet without bytes, parameter sets
alone) is passed over.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import av

from engine.errors import VideoError
from kernels.files import whole_file

OPEN_EVENT: Final = "retake.video.open"
"""The audit event of every video file that is read; its argument is the path."""

REPLACE: Final = "replace the file with a complete one (copy or download it again)"

_BOXES = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx styp meta uuid udta pdin emsg prft ssix pnot".split()
)
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Container and first video stream; every PyAV failure inside the block becomes a VideoError."""
    if not path.is_file():
        raise VideoError(
            f"{path} does not exist or is not a file", fix="check the path or copy the clip there"
        )
    # PyAV opens files natively, which no audit hook sees unless it is said; see `engine.loop.boundary`.
    sys.audit(OPEN_EVENT, str(path))
    _refuse_cut_off(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} holds no video stream", fix="give a video file such as H.264 mp4")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoError(
                    f"{path} holds video of a codec that FFmpeg does not know, or is damaged",
                    fix="give a video file such as H.264 mp4",
                )
            yield container, stream
    except av.FFmpegError as error:
        size = path.stat().st_size
        raise VideoError(
            f"{path} ({size} bytes) is not a readable video, or is truncated: {error.strerror}", fix=REPLACE
        ) from error


@contextmanager
def whole_mp4(path: Path) -> Iterator[Any]:
    """A container that appears under `path` when the block is done, and not at all when it fails."""
    try:
        with (
            whole_file(path) as part,
            av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container,
        ):
            yield container
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be written: {error.strerror}", fix="check the space and the rights of its folder"
        ) from error


def picture_packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets that hold a picture, and the empty one at the end: a decoder then gives what it holds."""
    length_bytes = _nal_length_bytes(stream.codec_context)
    for packet in container.demux(stream):
        if packet.size == 0:
            # FFmpeg takes any packet without bytes for the end; one in the middle repeats the frame before.
            if packet.pts is None and packet.dts is None:
                yield packet
        elif length_bytes == 0 or _holds_slice(memoryview(packet), length_bytes):
            yield packet


def decoded_frames(
    path: Path, container: Any, stream: Any, threads: int = 0, *, pixels: bool = True
) -> Iterator[Any]:
    """Every frame that a player shows, by `threads` threads, 0: one a core. VideoError at a damaged one.

    A decoder of several threads is given as many packets as these before it gives a frame. Without `pixels`
    the same damage is found, and the filter across block edges left out: a fifth of the time of H.264.
    """
    if not pixels:
        stream.codec_context.options = {"skip_loop_filter": "all"}
    stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
    number = 0
    for packet in picture_packets(container, stream):
        for frame in packet.decode():
            if frame.is_corrupt:  # FFmpeg fills what it cannot decode from other frames, without an error
                raise VideoError(f"{path} is truncated or damaged in frame {number}", fix=REPLACE)
            yield frame
            number += 1


def _refuse_cut_off(path: Path) -> None:
    """Raise VideoError for an mp4, Matroska or AVI file that is shorter than its parts say."""
    with path.open("rb") as file:
        head = file.read(12)
        size = path.stat().st_size
        if head[:4] == _EBML:
            end = _matroska_end(file)
        elif head[:4] == b"RIFF":
            end = _riff_end(file, size)
        elif head[4:8] in _BOXES:
            end = _boxes_end(file, size)
        else:
            return
    if end > size:
        raise VideoError(f"{path} is truncated: it ends before its last part does", fix=REPLACE)


def _nal_length_bytes(context: Any) -> int:
    """Of H.264 in mp4 and Matroska: the bytes of the length in front of each unit. 0: nothing to look at."""
    extra = context.extradata
    return (extra[4] & 3) + 1 if context.name == "h264" and extra and extra[0] == 1 and len(extra) > 4 else 0


def _holds_slice(data: memoryview, length_bytes: int) -> bool:
    """Whether there is a picture among the units (ITU-T H.264, table 7-1), or they cannot be told apart."""
    place = 0
    while place + length_bytes < len(data):
        length = int.from_bytes(data[place : place + length_bytes], "big")
        if 1 <= data[place + length_bytes] & 31 <= 5:
            return True
        place += length_bytes + length
    return place != len(data)


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box of an mp4 ends (ISO/IEC 14496-12, 4.2); what is no box is not looked at."""
    place = 0
    while place < size:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if kind not in _BOXES or length == 0:  # 0: to the end of the file
            return size
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))
        place += max(length, 8)
    return place


def _riff_end(file: BinaryIO, size: int) -> int:
    """Where the last chunk of an AVI ends; large ones have several. A length never filled in is 0."""
    place = 0
    while place < size:
        file.seek(place)
        kind, length = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):
            return size
        place += 8 + length
    return place


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment ends (RFC 8794, 6); 0 where the writer left its length open."""
    file.seek(4)
    length, _ = _variable_length(file)
    file.seek(length, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length, is_known = _variable_length(file)
    return file.tell() + length if is_known else 0


def _variable_length(file: BinaryIO) -> tuple[int, bool]:
    """An EBML length, and whether it is one: all bits set stands for unknown."""
    first = (file.read(1) or b"\0")[0]
    extra = 8 - first.bit_length()
    bits = 7 * (extra + 1)
    value = int.from_bytes(bytes([first]) + file.read(extra), "big") & ((1 << bits) - 1)
    return value, value != (1 << bits) - 1
