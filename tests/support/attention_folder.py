"""A folder of made-up attention kernels on the import path, in place of `kernels/attention`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOOD = """
from kernels.reference import attention
ACCURACY, ERROR_FACTOR = "exact", 2.0
def supports(problem):
    return None
def run(q, k, v, **options):
    return attention(q, k, v, **options).to(q.dtype)
"""

Write = Callable[..., str]


@pytest.fixture
def write_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """`write_folder(name=source, ...)` makes the package and returns its name; again, it replaces files."""
    name = f"made_up_{tmp_path.name}".replace("-", "_")
    folder = tmp_path / "path" / name
    folder.parent.mkdir()
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a file within one second

    def forget() -> None:
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            del sys.modules[module]

    def write(**sources: str) -> str:
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text('"""Made up."""\n')
        for stem, source in sources.items():
            (folder / f"{stem}.py").write_text(source)
        forget()
        return name

    yield write
    forget()
