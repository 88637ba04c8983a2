"""Folders made of links to files elsewhere: where each link leads, its digest, and whether it still holds.

A part of such a folder has its weights as `weights.safetensors` or `weights.gguf`, in the layout of whatever
tool wrote them; config.json beside it says what they are. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from engine.errors import ModelError
from kernels.files import read_json

LINKS: Final = "links.json"
WEIGHTS: Final = ("weights.safetensors", "weights.gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`sha256` in hex, of the file when the link was made."""

    target: str
    num_bytes: int
    sha256: str


def linked_file(folder: Path) -> Path | None:
    """The weights of another tool in the folder of a part, or None. ModelError for a link to nowhere."""
    for name in WEIGHTS:
        path = folder / name
        if path.is_file():
            return path
        if path.is_symlink():
            raise ModelError(
                f"{path} leads to {path.readlink()}, which is gone",
                fix="put the file back, or make the folder again with `retake models add`",
            )
    return None


def read_links(folder: Path) -> dict[str, Link]:
    """By place in the folder; empty for a folder of another kind. ModelError where they cannot be read."""
    links: dict[str, Link] = _document(folder)[0]
    return links


def linked_parts(folder: Path) -> dict[str, str]:
    """Part -> what it is and how its weights are stored, in words, as `links.json` says."""
    parts: dict[str, str] = _document(folder)[1]
    return parts


def _document(folder: Path) -> tuple[dict[str, Link], dict[str, str]]:
    path = folder / LINKS
    if not path.is_file():
        return {}, {}
    try:
        document = read_json(path)
        links = {place: Link(**link) for place, link in document["links"].items()}
        return links, {kind: str(what) for kind, what in document["parts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is no list of links: {error}", fix="make the folder again with `retake models add`"
        ) from error


def links_document(links: Mapping[str, Link], parts: Mapping[str, str]) -> dict[str, object]:
    return {
        "version": 1,
        "parts": dict(parts),
        "links": {place: asdict(link) for place, link in links.items()},
    }


def require_unchanged(folder: Path, digest: Callable[[Path], str] | None = None) -> None:
    """ModelError where a linked file is gone or is another one: by its size, with `digest` by its content."""
    for place, link in read_links(folder).items():
        path = folder / place
        if not path.exists():
            problem = "is gone"
        elif path.stat().st_size != link.num_bytes:
            problem = f"has {path.stat().st_size} bytes, not {link.num_bytes}"
        elif digest is not None and digest(path) != link.sha256:
            problem = "has another content"
        else:
            continue
        raise ModelError(
            f"{folder}: {link.target}, its {place}, {problem} since it was linked",
            fix="put the file back, or make the folder again with `retake models add`",
        )
