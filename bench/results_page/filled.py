"""Pages written by hand whose figures are not: what stands between two markers is made from the measurements.

    <!-- figures: NAME -->
    ...
    <!-- /figures -->

Knows how a block is found and filled; what a name means stands in `figures`. Invariant: filling twice changes
nothing, and text outside of the markers is never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.results_page.figures import FIGURES
from bench.results_page.page import Page
from bench.results_page.result_files import ResultError

FILLED = ("README.md", "docs/denoiser.md")
"""Pages with blocks."""
BEGIN, END = "<!-- figures: {name} -->", "<!-- /figures -->"
BLOCK = re.compile(r"<!-- figures: (?P<name>[^ >]+) -->\n(?P<body>.*?)<!-- /figures -->", re.DOTALL)
MARKER = re.compile(r"<!-- /?figures\b[^>]*-->")

Figures = Mapping[str, Callable[[Page], str]]


def filled_pages(root: Path, page: Page) -> dict[str, str]:
    """Path below `root` -> its text with every block made anew; a page that is not there is left out."""
    texts = {name: root / name for name in FILLED if (root / name).is_file()}
    return {name: fill(path.read_text(encoding="utf-8"), page, name) for name, path in texts.items()}


def fill(text: str, page: Page, where: str, figures: Figures = FIGURES) -> str:
    """`text` with every block made anew. ResultError, which names `where`, for a marker without its other
    half, a name that no figure has, and a figure whose measurements lack what it tells."""

    def made(block: re.Match[str]) -> str:
        name = block["name"]
        if name not in figures:
            raise ResultError(f"{where}: no figure is named {name}", fix=f"use one of {', '.join(figures)}")
        try:
            figure = figures[name](page).strip()
        except (KeyError, TypeError, AttributeError) as error:
            raise ResultError(
                f"{where}: {name} cannot be made of the measurements: {type(error).__name__} {error}",
                fix="measure again with this version, or change bench/results_page/figures.py",
            ) from error
        return f"{BEGIN.format(name=name)}\n{figure}\n{END}"

    bodies = [block["body"] for block in BLOCK.finditer(text)]
    stray = [marker for part in (without_blocks(text), *bodies) for marker in MARKER.findall(part)]
    if stray:
        raise ResultError(f"{where}: {stray[0]} has no other half", fix=f"end each block with {END}")
    return BLOCK.sub(made, text)


def without_blocks(text: str) -> str:
    """What is written by hand."""
    return BLOCK.sub("", text)
