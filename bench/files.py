"""How the benchmarks write a file: whole or not at all, and what the system refuses as an error of ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import ScorerError
from kernels import files
from kernels.files import STDOUT


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write, which becomes `path` when all went well. ScorerError for what the system refuses."""
    try:
        with files.whole_file(path) as part:
            yield part
    except OSError as error:
        raise ScorerError(
            f"cannot write {path}: {error.strerror}",
            fix="make room there, name another file, or for the cache give --cache DIR or --no-cache",
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Atomic: whoever reads at the same time finds the old file or the new one. Raises ScorerError."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """As `write_whole`, or to STDOUT. A report being made meanwhile reads the old file or the new one."""
    text = json.dumps(document, indent=1) + "\n"
    if path == STDOUT:
        sys.stdout.write(text)
    else:
        write_whole(path, text.encode())
