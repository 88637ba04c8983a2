"""What a weight file states of itself: tensors by name with type, shape and place. Reads no weight.

Knows safetensors and GGUF, and refuses pickles by their first bytes, whatever the name says. Imports no
torch. Invariant: what a header states lies inside of the file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from engine.errors import ModelError
from engine.weights import gguf_header
from kernels.files import parse_json

SAFETENSORS: Final = "safetensors"
GGUF: Final = "gguf"
SUFFIXES: Final = (".safetensors", ".gguf")
"""Of files of weights that are read."""

MOST_HEADER_BYTES = 100_000_000
"""As the library of safetensors allows."""
BYTES: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
"""Of an element, by its type in safetensors."""
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How archives of torch.save begin, the first as zip files."""
TEXTS: Final = (
    (b"version https://git-lfs.", "a pointer of Git LFS in place of a file; `git lfs pull` fetches that"),
    (b"<!doctype html", "a web page, such as a download that was refused leaves"),
    (b"<html", "a web page, such as a download that was refused leaves"),
)
"""How files begin that downloads leave under the name of another one -> what they are."""
NOTED_BYTES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor as it lies in a file; `type` as the format names it: BF16, F8_E4M3, Q4_K."""

    type: str
    shape: tuple[int, ...]
    start: int  # in bytes from the beginning of the file
    num_bytes: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Of one file. `metadata` as the format has it: of safetensors texts, of GGUF scalars and short lists."""

    path: Path
    format: str
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, Any]

    @property
    def types(self) -> dict[str, int]:
        """Type -> number of its elements, the most first."""
        counts: Counter[str] = Counter()
        for stored in self.tensors.values():
            counts[stored.type] += stored.num_elements
        return dict(counts.most_common())


def read_header(path: Path) -> Header:
    """ModelError for a pickle, another format or a damaged file; OSError as reading raises."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(NOTED_BYTES)
        file.seek(0)
        if (other := _other_file(start)) is not None:
            raise ModelError(f"{path} ({size} bytes) is {other}", fix=_fix(path))
        if start.startswith(PICKLES):
            raise ModelError(
                f"{path} is a pickle, which can run any code when it is opened; none is read",
                fix="take the same weights as .safetensors or .gguf",
            )
        try:
            if start.startswith(gguf_header.MAGIC):
                metadata, found = gguf_header.read(file, size)
                tensors = {name: Stored(**place) for name, place in found.items()}
                return Header(path=path, format=GGUF, tensors=tensors, metadata=metadata)
            tensors, metadata = _safetensors(file, size)
            return Header(path=path, format=SAFETENSORS, tensors=tensors, metadata=metadata)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ModelError(
                f"{path} ({size} bytes) is no whole safetensors or GGUF file: {error}", fix=_fix(path)
            ) from error


def _fix(path: Path) -> str:
    if path.suffix.lower() in SUFFIXES:
        return "copy or download the file again"
    return f"give a file of weights, {' or '.join(SUFFIXES)}"


def _other_file(start: bytes) -> str | None:
    """What a file is that holds no weights at all, by its first bytes; None where it may hold some."""
    if not start:
        return "empty"
    for beginning, what in TEXTS:
        if start.lower().startswith(beginning):
            return what
    # the length of a header, in 8 bytes, has zeros at its end
    if start.startswith(gguf_header.MAGIC) or 0 in start[:8]:
        return None
    text = start.decode("utf-8", errors="replace").rstrip("\ufffd")  # of a letter that is cut
    readable = all(letter.isprintable() or letter in "\r\n\t" for letter in text) and "\ufffd" not in text
    return f"text, no weights: it begins with {text!r}" if text and readable else None


def _safetensors(file: BinaryIO, size: int) -> tuple[dict[str, Stored], dict[str, Any]]:
    """The length of the header in 8 bytes, the header in JSON, the tensors."""
    length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER_BYTES:
        raise ValueError("it begins as neither does")
    if not 2 <= length <= size - 8:
        raise ValueError(f"its header would have {length} bytes")
    stated = parse_json(file.read(length))
    if (metadata := stated.pop("__metadata__", None)) is None:  # null, as the library allows
        metadata = {}
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are no object")
    tensors = {}
    for name, entry in stated.items():
        first, end = entry["data_offsets"]
        if entry["dtype"] not in BYTES:
            raise ValueError(f"{name} has the unknown type {entry['dtype']!r}")
        shape = tuple(int(side) for side in entry["shape"])
        num_bytes, start = math.prod(shape) * BYTES[entry["dtype"]], 8 + length + first
        if 8 + length + end > size:
            raise ValueError(f"it ends before {name}, which would end at byte {8 + length + end}")
        if min((first, *shape)) < 0 or end - first != num_bytes:
            raise ValueError(f"{name} begins before the file, or its size is not that of its shape")
        tensors[name] = Stored(type=entry["dtype"], shape=shape, start=start, num_bytes=num_bytes)
    return tensors, metadata
