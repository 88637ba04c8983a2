"""What scoring needs of the two real takes of a case, made once and kept: reduced frames, masks, variance.

An entry is one zip file named by the digest of all that decides its bits, so that it is never stale, only
unused. Frames are packed without loss to a 14th to a third of their size (`packed_frames`), and read in a
small part of the time that decoding 4K takes. A damaged entry is made again.
Legend: h, w reduced pixels.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import zstandard

from bench.files import whole_file
from bench.scoring.clip_stream import (
    FrameSink,
    MotionRecord,
    packed_iou,
    read_masks,
    stream_clip,
    stream_frames,
)
from bench.scoring.packed_frames import LEVEL, FramePacker, FrameUnpacker
from bench.scoring.references import Reference, ReferenceKey
from bench.scoring.view_metrics import PairMetrics, iou, share_iou, squared_error
from engine.errors import ScorerError
from engine.types import Frames

TAKES = (0, 1)
SHARE_OF_RAW = (0.07, 0.4)  # seen on clips with clean and with noisy backgrounds
_LOCAL_HEADER_BYTES = 30  # of a zip file, before the name (APPNOTE 4.3.7)
T = TypeVar("T")


class DamagedEntry(Exception):
    """A stored entry does not read back; it is to be deleted and made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealTakes:
    """One case's takes, reduced. Frames are read from `path` when they are asked for."""

    path: Path
    key: ReferenceKey
    motion: tuple[MotionRecord, MotionRecord]
    variance: PairMetrics  # take 1 against take 2

    def frames(self, take: int) -> Iterator[Frames]:
        """Reduced frames uint8 BGR [h, w, 3] of take 0 or 1, each overwritten by the next. DamagedEntry."""
        unpacker = FrameUnpacker((self.key.size[1], self.key.size[0], 3))
        with _reading(self.path) as (archive, file):
            for index in range(self.key.num_frames):
                yield unpacker.unpack(_stored(file, archive.getinfo(_frame_name(take, index))))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCache:
    """Entries below `folder`; None keeps nothing and makes every entry in a temporary place."""

    folder: Path | None

    def use(
        self, reference: Reference, key: ReferenceKey, function: Callable[[RealTakes], T], threads: int = 1
    ) -> T:
        """`function` on the takes, from the cache or made now. VideoError when a real clip is unusable."""
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="retake-takes-") as place:
                path = Path(place) / "takes.zip"
                make_entry(path, reference, key, threads)
                return function(read_entry(path, key))
        path = self.path(key)
        if path.is_file():
            try:
                return function(read_entry(path, key))
            except DamagedEntry:
                path.unlink(missing_ok=True)
        make_entry(path, reference, key, threads)
        try:
            return function(read_entry(path, key))
        except DamagedEntry as error:
            raise ScorerError(
                f"{path} was just written and does not read back ({error})",
                fix="check the disk, or give another folder by --cache DIR",
            ) from error

    def path(self, key: ReferenceKey) -> Path:
        assert self.folder is not None
        return self.folder / f"{key.text}.zip"

    def usage(self) -> tuple[int, int]:
        """Number of entries and their size in bytes."""
        sizes = [path.stat().st_size for path in self.folder.glob("*.zip")] if self.folder else []
        return len(sizes), sum(sizes)


def expected_bytes(size: tuple[int, int], num_frames: int) -> tuple[int, int]:
    """How large an entry will be, from and to; `size` is (w, h), reduced."""
    raw = len(TAKES) * num_frames * size[0] * size[1] * 3
    low, high = SHARE_OF_RAW
    return round(raw * low), round(raw * high)


def make_entry(path: Path, reference: Reference, key: ReferenceKey, threads: int = 1) -> None:
    """Decode both takes once each and write the entry. Atomic. VideoError when a real clip is unusable."""
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        _write_takes(archive, reference, key, threads)


def read_entry(path: Path, key: ReferenceKey) -> RealTakes:
    """All of an entry but its frames. Raises DamagedEntry."""
    width, height = key.size
    with _reading(path) as (archive, _):
        bits = (key.num_frames, -(-width * height // 8))
        motion = [
            MotionRecord(
                packed=_unpack(archive, f"masks-{take + 1}", bits),
                counts=_unpack(archive, f"counts-{take + 1}", (height, width, 2)).view(np.uint16)[..., 0],
            )
            for take in TAKES
        ]
        variance = read_pair(json.loads(archive.read("variance")))
    return RealTakes(path=path, key=key, motion=(motion[0], motion[1]), variance=variance)


def compare_motion(a: MotionRecord, b: MotionRecord, mse: list[float]) -> PairMetrics:
    """`view_metrics.compare` from what was kept of both clips; bit-equal."""
    assert len(a.packed) == len(b.packed) == len(mse), f"{len(a.packed)}, {len(b.packed)}, {len(mse)} frames"
    return PairMetrics(
        mse=tuple(mse),
        spatiotemporal=tuple(packed_iou(*pair) for pair in zip(a.packed, b.packed, strict=True)),
        spatial=iou(a.ever, b.ever),
        weighted_spatial=share_iou(a.share, b.share),
    )


def read_pair(record: dict[str, Any]) -> PairMetrics:
    """From `asdict` by way of JSON, which keeps every bit of a float."""
    return PairMetrics(
        mse=tuple(record["mse"]),
        spatiotemporal=tuple(record["spatiotemporal"]),
        spatial=record["spatial"],
        weighted_spatial=record["weighted_spatial"],
    )


def _write_takes(archive: zipfile.ZipFile, reference: Reference, key: ReferenceKey, threads: int) -> None:
    # One block, which goes back to the system: of frames one by one the heap keeps what lies between them.
    first = np.empty((key.num_frames, key.size[1], key.size[0], 3), np.uint8)
    numbers = count()
    mse: list[float] = []
    packers = [FramePacker() for _ in TAKES]

    def keep(frame: Frames) -> None:
        number = next(numbers)
        first[number] = frame
        archive.writestr(_frame_name(0, number), packers[0].pack(first[number]))

    def compare(frame: Frames) -> None:
        archive.writestr(_frame_name(1, len(mse)), packers[1].pack(frame))
        mse.append(squared_error(first[len(mse)], frame))

    sinks: tuple[FrameSink, FrameSink] = (keep, compare)
    motion = [_stream_take(reference, take, key, sinks[take], threads) for take in TAKES]
    for take, record in enumerate(motion, start=1):
        _pack(archive, f"masks-{take}", record.packed)
        _pack(archive, f"counts-{take}", record.counts)
    variance = asdict(compare_motion(motion[0], motion[1], mse))
    archive.writestr("variance", json.dumps(variance))


def _stream_take(
    reference: Reference, take: int, key: ReferenceKey, sink: FrameSink, threads: int
) -> MotionRecord:
    """One decode of the clip; its masks come from their file, or from the same pass where there is none."""
    clip, masks = reference.takes[take], reference.masks[take]
    if not masks.is_file():
        return stream_clip(clip, key.size, key.fps, key.num_frames, sink, threads)
    shape = stream_frames(clip, key.size, key.num_frames, sink, threads)
    return read_masks(masks, key.size, key.num_frames, clip_shape=shape, threads=threads)


def _frame_name(take: int, index: int) -> str:
    return f"take-{take + 1}/{index:05d}"


def _pack(archive: zipfile.ZipFile, name: str, values: Any) -> None:
    data = np.ascontiguousarray(values).data.cast("B")
    archive.writestr(name, zstandard.ZstdCompressor(LEVEL).compress(data))


def _unpack(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> Any:
    packed, size = archive.read(name), int(np.prod(shape))
    return np.frombuffer(zstandard.ZstdDecompressor().decompress(packed, size), np.uint8).reshape(shape)


def _stored(file: BinaryIO, entry: zipfile.ZipInfo) -> bytes:
    """An entry as it lies in the file, not by `ZipFile.read`, whose copies and checksum take half as long as
    unpacking; what was packed has a checksum of its own."""
    file.seek(entry.header_offset + _LOCAL_HEADER_BYTES - 4)
    lengths = file.read(4)  # of the name and of what else follows the header
    file.seek(sum(int.from_bytes(part, "little") for part in (lengths[:2], lengths[2:])), os.SEEK_CUR)
    return file.read(entry.compress_size)


@contextmanager
def _reading(path: Path) -> Iterator[tuple[zipfile.ZipFile, BinaryIO]]:
    """The archive, and the file that it reads from. What a damaged one can raise becomes DamagedEntry."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            yield archive, file
    except (
        OSError,
        zipfile.BadZipFile,
        zstandard.ZstdError,
        KeyError,
        ValueError,
        TypeError,
        EOFError,
    ) as error:
        raise DamagedEntry(f"{path}: {error}") from error
