"""Frames of one clip packed without loss, and read back in a millisecond each.

A frame is its difference to the one before, in halves of bytes: what noise changes fits into the low ones, of
which two make one symbol for Zstandard, and the high ones are nearly all 0. That decodes faster than whole
bytes and takes less room. Every frame carries a checksum, so that damage is found. Knows no files.
"""

from __future__ import annotations

import math

import numpy as np
import zstandard

from engine.types import Frames

LEVEL = 1
_BIAS = 8  # added to every difference: the high half of -8 to 7 is then 0
_WORD = 8  # bytes that are split at a time
_LOW, _HIGH = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0xF0F0F0F0F0F0F0F0)
_HALF_BYTE = np.uint64(4)


class FramePacker:
    """uint8 frames of one shape, in turn. Holds the last one, which may not change meanwhile."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True)
        self._before: Frames | None = None

    def pack(self, frame: Frames) -> bytes:
        change = frame if self._before is None else frame - self._before  # modulo 256
        self._before = frame
        halves = np.zeros((2, _half(frame.size)), np.uint8)
        np.add(change.reshape(-1), np.uint8(_BIAS), out=halves.reshape(-1)[: frame.size])
        first, second = halves.view(np.uint64)
        low = (first & _LOW) | ((second & _LOW) << _HALF_BYTE)
        high = ((first >> _HALF_BYTE) & _LOW) | (second & _HIGH)
        return self._compressor.compress(np.stack([low, high]).data.cast("B"))


class FrameUnpacker:
    """The reverse, for frames of `shape`. Holds its memory: fresh pages cost as much as the arithmetic."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        words = _half(math.prod(shape)) // _WORD
        self._decompressor = zstandard.ZstdDecompressor()
        self._halves = np.empty((2, words), np.uint64)  # low, high
        self._change, self._other = (np.empty(words, np.uint64) for _ in range(2))
        self._sum = np.zeros((2, words * _WORD), np.uint8)  # of all differences and their biases
        self._frame = np.empty(shape, np.uint8)
        self._unpacked = 0

    def unpack(self, packed: bytes) -> Frames:
        """The next frame, overwritten by the one after. Raises ZstdError or ValueError for damaged bytes."""
        self._decompress(packed)
        low, high = self._halves
        change, other = self._change, self._other
        np.left_shift(np.bitwise_and(high, _LOW, out=change), _HALF_BYTE, out=change)
        self._add(0, np.bitwise_or(change, np.bitwise_and(low, _LOW, out=other), out=change))
        np.bitwise_and(np.right_shift(low, _HALF_BYTE, out=change), _LOW, out=change)
        self._add(1, np.bitwise_or(change, np.bitwise_and(high, _HIGH, out=other), out=change))
        self._unpacked += 1
        found = self._sum.reshape(-1)[: self._frame.size]
        np.subtract(found, np.uint8(self._unpacked * _BIAS % 256), out=self._frame.reshape(-1))
        return self._frame

    def _add(self, half: int, change: Frames) -> None:
        np.add(self._sum[half], change.view(np.uint8), out=self._sum[half])

    def _decompress(self, packed: bytes) -> None:
        with self._decompressor.stream_reader(packed) as reader:
            found = reader.readinto(self._halves.view(np.uint8).reshape(-1).data)
            rest = reader.read(1)  # the checksum is looked at only when more is asked for
        if found != self._halves.nbytes or rest:
            raise ValueError(f"{found} bytes or more unpacked, {self._halves.nbytes} expected")


def _half(size: int) -> int:
    """Bytes of half a frame, filled up to whole words."""
    return math.ceil(size / (2 * _WORD)) * _WORD
