"""The header of a GGUF file (ggml, docs/gguf.md): key-value pairs, then where each tensor lies.

Little-endian files of versions 2 and 3. Long lists, such as the words of a tokenizer, are passed over.
ValueError where the file does not hold what it states.
"""

from __future__ import annotations

import math
import struct
from typing import Any, BinaryIO, Final

from engine.weights.ggml_types import TYPES

MAGIC: Final = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MOST_SIDES = 8
MOST_LIST = 64
"""Entries of a list that is kept: shapes are, vocabularies are not."""
MOST_NESTED = 4
"""Lists in lists; no published file has any."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _LIST = 8, 9


def read(file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(key-value pairs, the fields of `Stored` by tensor) of a file of `size` bytes.

    A tensor has the shape that torch would give it: GGUF states its sides in reverse. Where
    `comfy.gguf.orig_shape.NAME` says that it was flattened into rows for the quantizer, its own shape.
    """
    reader = _Reader(file, size)
    reader.take(len(MAGIC))
    if (version := reader.number("I")) not in VERSIONS:
        raise ValueError(f"GGUF version {version} is not one of {', '.join(map(str, VERSIONS))}")
    num_tensors, num_pairs = reader.number("Q"), reader.number("Q")
    pairs: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = reader.text()
        pairs[key] = reader.value(reader.number("I"))
    places = [_Place(reader) for _ in range(num_tensors)]
    if len({place.name for place in places}) < len(places):
        raise ValueError("two of its tensors have the same name")
    alignment = int(pairs.get("general.alignment", DEFAULT_ALIGNMENT))
    if alignment < 1:
        raise ValueError(f"general.alignment is {alignment}")
    base = math.ceil(file.tell() / alignment) * alignment
    return pairs, {place.name: place.fields(base, size, pairs) for place in places}


class _Reader:
    """A file from which nothing is read that it is too short for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def take(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise ValueError("it ends within its header")
        return self._file.read(count)

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind: int, nested: int = 0) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _LIST:
            return self._list(nested + 1)
        if kind not in _SCALARS:
            raise ValueError(f"a value has the unknown type {kind}")
        return self.number(_SCALARS[kind])

    def _list(self, nested: int) -> list[Any] | None:
        """None for one that is too long to be kept."""
        if nested > MOST_NESTED:
            raise ValueError("its lists are nested too deep")
        kind, count = self.number("I"), self.number("Q")
        if count <= MOST_LIST:
            return [self.value(kind, nested) for _ in range(count)]
        if kind in _SCALARS:
            self.take(count * struct.calcsize(f"<{_SCALARS[kind]}"))
        elif kind == _STRING:
            for _ in range(count):
                self.take(self.number("Q"))
        else:
            raise ValueError("a list of lists has too many entries")
        return None


class _Place:
    def __init__(self, reader: _Reader) -> None:
        self.name = reader.text()
        if (num_sides := reader.number("I")) > MOST_SIDES:
            raise ValueError(f"{self.name} has {num_sides} sides")
        self.sides = [int(reader.number("Q")) for _ in range(num_sides)]
        self.kind, self.offset = reader.number("I"), reader.number("Q")

    def fields(self, base: int, size: int, pairs: dict[str, Any]) -> dict[str, Any]:
        if self.kind not in TYPES:
            raise ValueError(f"{self.name} has the unknown type number {self.kind}")
        name, weights, block_bytes = TYPES[self.kind]
        count = math.prod(self.sides)
        if count % weights or (self.sides and self.sides[0] % weights):
            raise ValueError(f"{self.name} has {self.sides} weights, no multiple of the {weights} of {name}")
        shape = tuple(pairs.get(f"comfy.gguf.orig_shape.{self.name}") or reversed(self.sides))
        if math.prod(shape) != count or min(shape, default=0) < 0:
            raise ValueError(f"{self.name} has {count} weights and states the shape {list(shape)}")
        num_bytes = count // weights * block_bytes
        if base + self.offset + num_bytes > size:
            raise ValueError(f"{self.name} ends behind the end of the file")
        return {"type": name, "shape": shape, "start": base + self.offset, "num_bytes": num_bytes}
