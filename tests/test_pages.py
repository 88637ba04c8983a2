"""Pages written by hand: every relative link leads somewhere, every page can be found, no figure is typed."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine.selectors
from bench.results_page.filled import without_blocks
from bench.results_page.markdown import anchor
from engine import plugins

ROOT = Path(__file__).resolve().parents[1]
NOT_OURS = ("runs", "scenes", "exports", "shared")
"""Folders that git ignores, beside those that begin with a dot."""
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    and path.relative_to(ROOT).parts[0] not in NOT_OURS
)
ENTRY_PAGES = [page for page in PAGES if page != "RESULTS.md" and not page.startswith("engine/demo/")]
ENTRANCES = ("README.md", "docs/architecture.md")
FENCE = re.compile(r"^ *```.*?^ *```[^\n]*$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")

WITHOUT_FIGURES = ("README.md", "docs/denoiser.md", "docs/critic.md", "docs/export.md", "docs/scoring.md")
"""Figures stand between markers, or in RESULTS.md. docs/log.md is dated, and so are its figures."""
NAMES = re.compile(
    r"3\.1[12]"  # of Python
    r"|\b(8|12)\.x\b|\b8\.0\b|\b8\.9\b|\b12\.0\b"  # compute capabilities
    r"|\b\d+-bit\b|\b\d+ bits\b|\b95 % intervals\b|\bCUDA 1[23]\b|\b24 GB\b|\b\d+B\b|\b480p\b"
    r"|\bstatus is 0\b|\b1 when a scenario\b|\b2 when a setting\b"  # exit codes
    r"|^\d+\. |\bV-JEPA 2\b",  # of a list, of a model
    re.MULTILINE,
)
"""Numbers that are no measurement."""
NUMBER = re.compile(r"(?<![\w.-])[-+−]?\d[\d.,\u2009]*")


def links(text: str) -> Iterator[str]:
    """Targets inside this repository; code is no link."""
    for target in LINK.findall(CODE.sub("", FENCE.sub("", text))):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(text: str) -> set[str]:
    """Of every heading, as GitHub makes them; a second one of the same name ends in -1."""
    seen: dict[str, int] = {}
    for line in FENCE.sub("", text).splitlines():
        if match := re.match(r"#{1,6} +(.*)", line):
            name = anchor(match[1].replace("`", ""))
            seen[name] = seen.get(name, -1) + 1
    return {name if n == 0 else f"{name}-{n}" for name, most in seen.items() for n in range(most + 1)}


def broken(page: Path) -> list[str]:
    """Links of `page` to a file or a heading that is not there."""
    found = []
    for target in links(page.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (heading and heading not in anchors(path.read_text(encoding="utf-8"))):
            found.append(target)
    return found


def linked_from(page: str) -> set[str]:
    """Paths below ROOT of the files that a page links to."""
    targets = links((ROOT / page).read_text(encoding="utf-8"))
    paths = [((ROOT / page).parent / target.partition("#")[0]).resolve() for target in targets]
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_relative_to(ROOT)}


def typed(text: str) -> list[str]:
    """Numbers outside of blocks, code and links that are no name."""
    prose = CODE.sub("", FENCE.sub("", without_blocks(text)))
    return NUMBER.findall(NAMES.sub("", LINK.sub("]", prose)))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    assert broken(ROOT / page) == []


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_every_page_is_linked_from(entrance: str) -> None:
    assert sorted(set(ENTRY_PAGES) - {*ENTRANCES} - linked_from(entrance)) == []


def test_no_page_is_left_alone() -> None:
    linked = set().union(*(linked_from(page) for page in PAGES))
    assert sorted(set(PAGES) - linked - {"README.md"}) == []


@pytest.mark.parametrize("page", WITHOUT_FIGURES)
def test_no_figure_is_typed_by_hand(page: str) -> None:
    assert typed((ROOT / page).read_text(encoding="utf-8")) == [], "figures are made by `make results`"


def test_the_front_page_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(without_blocks(text).splitlines()) <= 100
    first_screen = text[: text.index("## ")]
    assert "TensorRT" in first_screen and "make gpu-acceptance" in first_screen
    assert "published weights" in first_screen


def test_the_recipe_of_a_selector_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipe = text.partition("## Add a selector")[2].partition("\n## ")[0]
    source, test = (textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", recipe, re.DOTALL))
    (tmp_path / "brightness.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(engine.selectors, "__path__", [*engine.selectors.__path__, str(tmp_path)])
    assert "brightness" in plugins.names("engine.selectors")
    names: dict[str, Any] = {}
    try:
        exec(compile(test, "CONTRIBUTING.md", "exec"), names)
        names["test_the_take_as_bright_as_the_prefix_wins"](tmp_path)
    finally:
        sys.modules.pop("engine.selectors.brightness", None)
        vars(engine.selectors).pop("brightness", None)


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# How fast, exactly?\n\n```\n# no heading\n```\n## A\n## A\n")
    page = tmp_path / "page.md"
    good = "[a](other.md#how-fast-exactly) [b](other.md#a-1) [c](https://x.y/z) `[d](no)` [e](#i)\n# I\n"
    page.write_text(good)
    assert broken(page) == []
    page.write_text(good + "[f](gone.md) [g](other.md#no-heading) [h](other.md#a-2) [i](#j)")
    assert broken(page) == ["gone.md", "other.md#no-heading", "other.md#a-2", "#j"]


@pytest.mark.parametrize(
    "line", ["It gains 1.4 points.", "2.67x as fast", "| mean | 73 |", "by −0.43", "94 % busy", "in 0.4 GiB"]
)
def test_a_typed_figure_is_seen(line: str) -> None:
    block = "<!-- figures: x -->\n1.5 points\n<!-- /figures -->\n"
    assert typed(f"1. Python 3.11, an 8-bit H200, `--limit 3`, [a](b#5)\n{block}") == []
    assert len(typed(f"{block}{line}\n")) == 1
