"""The tokenizer of a folder, read once in a process: a run needs it to plan and again to load, and one of
150,000 to 250,000 tokens takes a second each time.

Knows no model. Invariant: a folder whose files have changed is read again.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

Stamp = tuple[tuple[str, int, int, int], ...]
FILES = frozenset({".json", ".jinja", ".model", ".txt"})


def read_tokenizer(folder: Path) -> Any:
    """A copy of its own for each caller, over one vocabulary. Raises what transformers does."""
    return copy.copy(_read(folder.absolute(), _stamp(folder)))


@functools.lru_cache(maxsize=2)  # a generator's and a critic's
def _read(folder: Path, stamp: Stamp) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)  # nosec B615 # a local folder


def _stamp(folder: Path) -> Stamp:
    """Name, size and both times of every file that a tokenizer may be read from."""
    files = (path for path in folder.rglob("*") if path.suffix in FILES and path.is_file())
    found = ((str(path.relative_to(folder)), path.stat()) for path in sorted(files))
    return tuple((name, of.st_size, of.st_mtime_ns, of.st_ctime_ns) for name, of in found)
