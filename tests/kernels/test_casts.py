"""Which lines may round to E4M3: beyond 448 the conversions of libraries differ, so there is one helper each
for torch and for Triton, and both clamp first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = {"kernels/fused/formats.py": "to_format", "kernels/fused/_jit.py": "to_e4m3"}
BOUNDED = {
    ("kernels/attention/_triton_forward.py", "weights.to(tl.float8e4nv)"),
    ("kernels/attention/_triton_forward.py", "weights.to(values.dtype)"),
}
"""Weights of softmax times 2^8: at most 256 and its rounding."""


def casts(source: str) -> Iterator[tuple[str, str]]:
    """(function, text) of each `.to(...)` whose type is E4M3 or one that the code does not name."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "to" and node.args:
                wanted = ast.unparse(node.args[0])
                if "float8" in wanted or "FP8" in wanted or wanted in ("fmt.dtype", "values.dtype"):
                    yield function.name, ast.unparse(node)


def test_only_the_helpers_cast_to_e4m3() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), function, text)
        for house in ("kernels", "engine")
        for path in sorted((ROOT / house).rglob("*.py"))
        for function, text in casts(path.read_text(encoding="utf-8"))
    }
    helpers = {(path, function) for path, function, _ in found if HELPERS.get(path) == function}
    assert helpers == set(HELPERS.items())
    others = {(path, text) for path, function, text in found if (path, function) not in helpers}
    assert others == BOUNDED


def test_a_cast_of_its_own_is_found() -> None:
    source = "def f(x):\n    return x.to(torch.float8_e4m3fn)\ndef g(x):\n    return x.to(torch.int8)\n"
    assert list(casts(source)) == [("f", "x.to(torch.float8_e4m3fn)")]
