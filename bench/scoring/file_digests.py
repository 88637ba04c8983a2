"""Digests of clips, with a missing one named as an error of ours."""

from __future__ import annotations

from pathlib import Path

from engine.errors import VideoError
from engine.runs.digests import FileDigests
from kernels.files import file_digest


def sha256(path: Path, digests: FileDigests | None = None) -> str:
    """Of a file, in hex, as `digests` remembers it. Raises VideoError when it is missing."""
    try:
        return file_digest(path) if digests is None else digests.digest(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise missing_file(path) from error


def missing_file(path: Path) -> VideoError:
    return VideoError(f"{path} does not exist or is not a file", fix="check the path or copy the clip there")
