"""Every program of the benchmarks ends a user's error alike: told on stderr, status 2."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bench
from bench.console import user_error
from engine.errors import ScorerError

PROGRAMS = sorted(
    path
    for path in Path(str(bench.__file__)).parent.rglob("*.py")
    if "except RetakeError" in path.read_text() or "except (RetakeError" in path.read_text()
)


def test_it_is_told_on_stderr_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert user_error(ScorerError("a is [b]", fix="make it c")) == 2
    told = capsys.readouterr()
    assert told.err == "error: a is [b]\n  fix: make it c\n" and not told.out


def statuses_by_hand(handler: ast.ExceptHandler) -> list[int]:
    """Lines on which it gives an exit status that is a number."""
    given: list[tuple[int, ast.expr | None]] = []
    for node in ast.walk(handler):
        if isinstance(node, ast.Return):
            given.append((node.lineno, node.value))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.exit":
            given += [(node.lineno, argument) for argument in node.args]
    return [line for line, value in given if isinstance(value, ast.Constant) and isinstance(value.value, int)]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_no_program_has_a_status_of_its_own_for_it(path: Path) -> None:
    handlers = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and "RetakeError" in ast.unparse(node.type)
    ]
    assert [line for handler in handlers for line in statuses_by_hand(handler)] == []
