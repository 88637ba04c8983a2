"""A run folder as other tools read it: the example's document, its schema, the names that the page tells."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import jsonschema

from engine.runs.schema import run_schema

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "run-folder.md").read_text(encoding="utf-8")
TOLD = frozenset(re.findall(r"`([^`\n]+)`", PAGE))
"""Everything that docs/run-folder.md sets as code."""


def read(run: Path) -> dict[str, Any]:
    """As docs/examples/read_run.py does."""
    spec = importlib.util.spec_from_file_location("example_read_run", DOCS / "examples" / "read_run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.read(run)
    return found


def faults(document: dict[str, Any]) -> list[str]:
    """What is not as docs/run-folder.schema.json says, by place."""
    checked = jsonschema.Draft202012Validator(run_schema())
    return [f"{error.json_path}: {error.message}" for error in checked.iter_errors(document)]


def untold(run: Path) -> set[str]:
    """Files and folders of the run that the page does not name, without those that SQLite adds."""
    found = {path.name if path.is_file() else f"{path.name}/" for path in run.iterdir()}
    return {name for name in found if not name.startswith("run.sqlite-")} - TOLD
