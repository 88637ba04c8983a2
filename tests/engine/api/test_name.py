"""The import name: what it offers is documented, typed and explained."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import retake
from engine.errors import RetakeError

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
FUNCTIONS = [name for name in retake.__all__ if inspect.isfunction(getattr(retake, name))]


def test_the_page_names_all_of_it_and_nothing_else() -> None:
    code = " ".join(re.findall(r"`([^`\n]+)`", PAGE))
    assert [name for name in retake.__all__ if not re.search(rf"\b{name}\b", code)] == ["Clip"]
    called = set(re.findall(r"retake\.(\w+)\(", PAGE))
    assert called and called <= set(retake.__all__)


def test_the_page_gives_the_arguments() -> None:
    """`f(a, b=)` in the tables: b by its name."""
    rows = re.findall(r"^\| `(\w+)\(([^)]*)\)` \|", PAGE, re.MULTILINE)
    assert {name for name, _ in rows} == set(FUNCTIONS) - {"finish"}
    for name, arguments in rows:
        parameters = inspect.signature(getattr(retake, name)).parameters.values()
        told = [argument.strip() for argument in arguments.split(",")]
        keyword_only = inspect.Parameter.KEYWORD_ONLY
        assert told == [f"{p.name}=" if p.kind is keyword_only else p.name for p in parameters], name


@pytest.mark.parametrize("name", retake.__all__)
def test_it_is_explained(name: str) -> None:
    found = getattr(retake, name)
    text = found.__doc__ or ""
    assert len(text.split()) > 3 and not text.startswith(f"{name}("), f"{name} has no docstring"
    if name in FUNCTIONS:
        assert inspect.signature(found).return_annotation is not inspect.Signature.empty
    if name.endswith("Error"):
        assert issubclass(found, RetakeError)


@pytest.mark.parametrize("folder", ["engine", "kernels", "export", "engine/api/name/retake"])
def test_types_are_offered(folder: str) -> None:
    assert (ROOT / folder / "py.typed").is_file()
