"""Files that several processes may write at once, and digests of files. Knows no content."""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write that becomes `path` when all went well: all or nothing, and the last writer's stands.

    Each writer has a part of its own, which the block creates: with the rights that any file gets there, and
    with the errors of whoever writes. Makes the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """sha256 of a file in hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
