"""Whole clips that count otherwise than most, made by PyAV and, where it cannot, by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

NUM_FRAMES = 24


def write_clip(
    path: Path,
    codec: str = "libx264",
    *,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    change: Callable[[int, bytes], list[bytes]] = lambda _, data: [data],
) -> Path:
    """24 frames at 8 per second, a texture that moves; `change` gives the packets for each one."""
    texture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream: Any = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = dict(options or {})
        frames = [
            av.VideoFrame.from_ndarray(np.roll(texture, (i, 2 * i), (0, 1)), format="rgb24")
            for i in range(NUM_FRAMES)
        ]
        packets = [packet for frame in (*frames, None) for packet in stream.encode(frame)]
        for index, packet in enumerate(packets):
            for data in change(index, bytes(packet)):
                copy = av.Packet(data)
                copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
                copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                container.mux(copy)
    return path


def hidden(bit: int, *places: int) -> Callable[[int, bytes], list[bytes]]:
    """Clears the bit by which a frame of VP8 (0x10; RFC 6386, 9.1) or a key frame of VP9 (0x02) is shown."""
    return lambda index, data: [bytes([data[0] & ~bit]) + data[1:] if index in places else data]


def cut_by_edit_list(source: Path, path: Path, *, first_s: float, seconds: float) -> Path:
    """The mp4 with another edit: shown from `first_s` on, for `seconds` (ISO/IEC 14496-12, 8.6.6)."""
    data = bytearray(source.read_bytes())
    media_scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    movie_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    place = data.index(b"elst") + 12
    start = struct.unpack_from(">i", data, place + 4)[0] + round(first_s * media_scale)
    struct.pack_into(">Ii", data, place, round(seconds * movie_scale), start)
    path.write_bytes(data)
    return path


def samples_replaced(source: Path, path: Path, new: Mapping[int, bytes]) -> Path:
    """The mp4, of one chunk, with these samples in place of longer ones; the rest of its data follows on."""
    data = bytearray(source.read_bytes())
    sizes_at, chunk_at = data.index(b"stsz") + 12, data.index(b"stco") + 12
    (count,), (start,) = struct.unpack_from(">I", data, sizes_at), struct.unpack_from(">I", data, chunk_at)
    samples, place = [], start
    for size in struct.unpack_from(f">{count}I", data, sizes_at + 4):
        samples.append(bytes(data[place : place + size]))
        place += size
    samples = [new.get(index, sample) for index, sample in enumerate(samples)]
    joined = b"".join(samples)
    assert len(joined) <= place - start, "samples may not grow"
    data[start:place] = joined.ljust(place - start, b"\0")
    struct.pack_into(f">{count}I", data, sizes_at + 4, *map(len, samples))
    path.write_bytes(data)
    return path


def with_made_up_frame(path: Path) -> Path:
    """Damage an mp4 so that as many frames decode as before, without an error, and a later one is made up."""
    whole = path.read_bytes()
    num_frames, start = len(_are_corrupt(path)), whole.index(b"mdat") + 4
    for place in range(start, len(whole) - 16, 16):
        flipped = bytes(byte ^ 255 for byte in whole[place : place + 16])
        path.write_bytes(whole[:place] + flipped + whole[place + 16 :])
        with suppress(av.FFmpegError):
            found = _are_corrupt(path)
            if any(found) and not found[0] and len(found) == num_frames:  # the first is read for the header
                return path
    raise AssertionError(f"no such damage was found in {path}")


def _are_corrupt(path: Path) -> list[bool]:
    """Of each frame that decodes."""
    with av.open(str(path)) as container:
        return [frame.is_corrupt for frame in container.decode(video=0)]


def write_timed(
    path: Path, ticks: list[int], clock: Fraction, durations: list[int], size: tuple[int, int] = (32, 16)
) -> Path:
    """Black frames at these times, whose packets last as long as stated."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=24)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.options, stream.codec_context.time_base, stream.time_base = {"bf": "0"}, clock, clock
        packets = []
        for tick in ticks:
            frame = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, clock
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet, duration in zip(packets, durations, strict=True):
            packet.duration = duration
            container.mux(packet)
    return path
