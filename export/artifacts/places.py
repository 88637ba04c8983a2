"""Where artifacts lie: the store of this user, and every other folder that one was put into.

Knows no artifact. Invariant: the notes of several processes do not disturb each other, and a folder that is
gone is left out.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from export.spec import ExportError
from kernels.files import whole_file

NOTES: Final = ".places"
"""In the user's store: for each other one a file with its path, named by the digest of that."""


def note(store: Path, folder: Path) -> None:
    """Remember that artifacts lie in `folder` too. ExportError where that cannot be written."""
    folder = folder.absolute()
    if folder.resolve() == store.resolve():
        return
    content = os.fsencode(folder)
    try:
        with whole_file(store / NOTES / hashlib.sha256(content).hexdigest()[:16]) as part:
            part.write_bytes(content)
    except OSError as error:
        raise ExportError(
            f"{store} cannot be written: {error}", fix="give --denoiser the folder of the artifact"
        ) from error


def places(store: Path) -> list[Path]:
    """`store` itself, and the folders noted there that still are."""
    try:
        notes = sorted((store / NOTES).iterdir())
        noted = [Path(os.fsdecode(path.read_bytes())) for path in notes if not path.name.startswith(".")]
    except OSError:  # none was noted, or they are of another user
        noted = []
    return [store, *(folder for folder in noted if folder.is_absolute() and folder.is_dir())]
