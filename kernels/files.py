"""Small files that several processes may write at once. Knows no content."""

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """All or nothing: each writer has a part of its own, and the last one's stands. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)
