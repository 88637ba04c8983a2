"""docs/environment.md says what is so: variables, caches, statuses, extras."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from engine.commands._interrupts import STATUS
from engine.commands.cache import PARTS
from engine.settings import environment

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[tuple[str, str]]:
    """(first cell, second cell) of each row of the section's table."""
    cells = re.findall(r"^\| (.+?) \| (.+?) \|$", section(title), re.MULTILINE)
    return [(first, second) for first, second in cells if first not in ("variable", "part", "status")]


def variables(source: str) -> set[str]:
    """Every text in the code that looks like the name of a variable; docstrings are none."""
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and re.fullmatch(r"[A-Z][A-Z_]{5,}", text)}


def test_every_variable_is_told_and_no_other() -> None:
    told = {name for first, _ in rows("Environment variables") for name in re.findall(r"`(\w+)`", first)}
    assert told == variables(Path(environment.__file__).read_text(encoding="utf-8"))


def test_variables_are_seen() -> None:
    assert variables("import os\nos.environ['RETAKE_X'] = 'a'\n'''NOT_THIS is told.'''") == {"RETAKE_X"}


def test_the_caches_are_those_of_the_command() -> None:
    told = {name.strip("`"): text for name, text in rows("Caches")}
    assert told.keys() == PARTS.keys()
    assert [name for name, text in told.items() if not text.replace("`", "").startswith(PARTS[name])] == []


def test_the_statuses() -> None:
    assert [first for first, _ in rows("Exit statuses")] == ["0", "1", "2", str(STATUS)]


def test_every_extra_is_told() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) <= set(re.findall(r"`(\w+)`", section("Versions")))


def test_the_targets_of_make_are_told_in_its_head() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())
    named |= {name for line in re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE) for name in line.split()}
    head = text.partition("\n\n")[0]
    untold = {name for name in named if not re.search(rf"(make |; ){re.escape(name)}\b", head)}
    assert untold == {"clean", "test-slow"}
    assert all(re.search(rf"^{name}:", text, re.MULTILINE) for name in named)
