"""The other parts of a model that lie near one of its files, as ComfyUI's folders and downloads have them.

Offers, and decides nothing: a part is used where the user names it. Reads headers alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from engine.build.weight_files import look_at
from engine.errors import RetakeError
from engine.weights.header import SUFFIXES

NEIGHBOURS: Final = ("vae", "text_encoders", "clip")
"""Folders of ComfyUI beside diffusion_models, unet and checkpoints."""
MOST_FILES = 100


def parts_near(path: Path, family: str, fits: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Path]]:
    """Kind of part -> files of it whose configuration has the values that `fits` says for that kind."""
    found: dict[str, list[Path]] = {}
    for candidate in _candidates(path):
        try:
            file = look_at(candidate)
        except (RetakeError, OSError):  # none of ours, which is no fault here
            continue
        wanted = fits.get(file.part.kind)
        if wanted is None or file.family != family:
            continue
        if all(file.part.config.get(key) == value for key, value in wanted.items()):
            found.setdefault(file.part.kind, []).append(candidate)
    return found


def _candidates(path: Path) -> Iterator[Path]:
    home = path.absolute().parent
    places = [home, *(home.parent / name for name in NEIGHBOURS)]
    files = (file for place in places if place.is_dir() for file in sorted(place.iterdir()))
    for _, file in zip(range(MOST_FILES), files, strict=False):
        if file.suffix in SUFFIXES and file.is_file() and file.absolute() != path.absolute():
            yield file
