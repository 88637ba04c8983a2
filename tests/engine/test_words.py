"""Counts before nouns: one is one, also in what is already written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.words import counted

ROOT = Path(__file__).resolve().parents[2]
PLURALS = (
    "cases clips critiques entries files gates looks problems replies runs scenarios scenes scouts takes"
)
NOUN = re.compile(rf" (?:[a-z0-9-]+ ){{0,2}}?({PLURALS.replace(' ', '|')})\b(?! (?:no|one|the)\b)")
COUNT = re.compile(r"(len|sum)\(|([\w.]+\.|\w+\[.)?(num_\w+|count|total|n|takes|scenes|scouts)\b")
TEMPLATE = re.compile(rf"\}}\}}(?:</\w+>)? ({PLURALS.replace(' ', '|')})\b")


@pytest.mark.parametrize(
    ("num", "words", "told"),
    [
        (1, ("take",), "1 take"),
        (0, ("take",), "0 takes"),
        (2, ("held-out scene",), "2 held-out scenes"),
        (1, ("reply",), "1 reply"),
        (2, ("reply",), "2 replies"),
        (2, ("way",), "2 ways"),
        (3, ("process",), "3 processes"),
        (1, ("scene is", "scenes are"), "1 scene is"),
        (2, ("scene is", "scenes are"), "2 scenes are"),
    ],
)
def test_one_is_one(num: int, words: tuple[str, ...], told: str) -> None:
    assert counted(num, *words) == told


def by_hand(source: str) -> Iterator[str]:
    """Counts that an f-string puts before a plural, but for constants (in capitals) and what `assert` "
    "says."""
    tree = ast.parse(source)
    silent = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Assert) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and id(node) not in silent:
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    expression, found = ast.unparse(value.value), NOUN.match(str(text.value))
                    if found and is_count(expression):
                        yield f"{{{expression}}}{found[0]}"


def is_count(expression: str) -> bool:
    return COUNT.match(expression) is not None and not expression.startswith("counted(")


def test_a_plural_by_hand_is_found() -> None:
    assert list(by_hand('f"{len(a)} scenes, {run.num_takes} held-out takes"')) == [
        "{len(a)} scenes",
        "{run.num_takes} held-out takes",
    ]
    assert not list(by_hand('f"{name} takes no steps, {len(a)} of them, {MOST} takes"'))


@pytest.mark.parametrize("house", ["engine", "export", "bench"])
def test_no_count_is_put_before_a_plural_by_hand(house: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}": told
        for path in sorted((ROOT / house).rglob("*.py"))
        if "training" not in path.parts and (told := list(by_hand(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


def test_no_template_puts_a_count_before_a_plural_by_hand() -> None:
    found = {
        path.name: told
        for path in sorted((ROOT / "engine").rglob("*.j2"))
        if (told := TEMPLATE.findall(path.read_text(encoding="utf-8")))
    }
    assert found == {}
