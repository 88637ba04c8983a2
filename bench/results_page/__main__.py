"""Writes RESULTS.md, docs/waterfall-*.svg and the figures of README.md and docs, or says what is stale.

python -m bench.results_page            # write
python -m bench.results_page --check    # exit code 1 when a page or a plot is stale
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.console import user_error
from bench.files import write_whole
from bench.results_page.filled import filled_pages
from bench.results_page.page import PLOT_PATTERN, Page, make_page
from engine.errors import RetakeError

ROOT = Path(__file__).resolve().parents[2]


def stale(root: Path, page: Page) -> list[str]:
    """Paths below `root` whose content is not the page's, missing and leftover ones included."""
    wanted = expected(root, page)
    leftover = {f"docs/{path.name}" for path in (root / "docs").glob(PLOT_PATTERN)} - wanted.keys()
    changed = {name for name, text in wanted.items() if _read(root / name) != text}
    return sorted(leftover | changed)


def write(root: Path, page: Page) -> None:
    """Plots that no measurement makes any more are removed."""
    wanted = expected(root, page)
    for name, text in wanted.items():
        write_whole(root / name, text.encode("utf-8"))
    for path in (root / "docs").glob(PLOT_PATTERN):
        if f"docs/{path.name}" not in wanted:
            path.unlink()


def expected(root: Path, page: Page) -> dict[str, str]:
    """Path below `root` -> what it should hold."""
    plots = {f"docs/{name}": text for name, text in page.plots.items()}
    return {"RESULTS.md": page.text} | plots | filled_pages(root, page)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.results_page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when something is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    options = parser.parse_args(arguments)
    try:
        page = make_page(options.root / "bench" / "results")
        found = stale(options.root, page)
    except RetakeError as error:
        return user_error(error)
    if options.check:
        print("\n".join(f"stale: {name}" for name in found) or "up to date")
        return 1 if found else 0
    write(options.root, page)
    print("\n".join(f"wrote {name}" for name in found) or "up to date")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
