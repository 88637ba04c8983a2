"""Files that several processes may write at once, their digests and names, and JSON. Knows no content."""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

_PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial(-journal)?", re.DOTALL)
"""With what SQLite keeps beside a database in the making."""
_DEVICES = Path("/dev")
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line end, what reverses text, and bytes of file names that are no UTF-8."""


STDOUT = Path("-")
"""Of an option that names a file for JSON: the document alone goes to stdout, all else to stderr."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write that becomes `path` when all went well: all or nothing, and the last writer's stands.

    Each writer has a part of its own, which the block creates: with the rights that any file gets there, and
    with the errors of whoever writes. Makes the folder. A device or a pipe, such as /dev/null, is written as
    it is: for root, a file would take its place.
    """
    if path.parent == _DEVICES or (path.exists() and not path.is_file()):
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def is_part(path: Path) -> bool:
    """Whether this is what `whole_file` leaves of a writer that was killed, if nobody writes there now."""
    return _PART.fullmatch(path.name) is not None and path.is_file()


def meant(path: Path) -> Path:
    """Of a part that `whole_file` writes, the file that it becomes; else the path itself."""
    part = _PART.fullmatch(path.name)
    return path if part is None else path.with_name(part[1])


def name_fault(name: str) -> str | None:
    """Why no file of ours gets this foreign name; None where one may: a single name, in UTF-8."""
    if name in ("", ".", "..") or "\0" in name:
        return "is no name of a file"
    if "/" in name:
        return "leads to another folder"
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a file name that are no UTF-8 become surrogates
        return "is not UTF-8"
    return None


def printable(text: str) -> str:
    """`text` with a question mark for each character that a terminal would obey rather than show."""
    return _OBEYED.sub("?", text)


def inside(folder: Path, place: str | PurePath) -> Path:
    """`folder` / `place`. ValueError where that is outside: absolute, by "..", or over a symbolic link."""
    parts = PurePath(place).parts
    if not parts or any(name_fault(part) for part in parts):
        raise ValueError(f"{str(place)!r} is no place in a folder")
    path = folder / place
    if not _has_link(folder, parts):  # spares thousands of files two walks from the root each
        return path
    real, real_folder = (os.path.join(os.path.realpath(one), "") for one in (path, folder))
    if not real.startswith(real_folder):
        raise ValueError(f"{str(place)!r} leads outside of {folder}, over a symbolic link")
    return path


def _has_link(folder: Path, parts: Sequence[str]) -> bool:
    """Whether a symbolic link is on the way from `folder` to what the `parts` name, or at its end."""
    at = str(folder)
    for part in parts:
        at = os.path.join(at, part)
        if os.path.islink(at):
            return True
    return False


def read_json(path: Path) -> Any:
    """The value in a JSON file. ValueError where it is none, whatever it holds; OSError as reading raises."""
    return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """ValueError too for brackets nested deeper than Python's stack, which is a RecursionError of `json`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def file_digest(path: Path) -> str:
    """sha256 of a file in hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
