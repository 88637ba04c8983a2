"""The JSON Schema of a run folder, for other tools: docs/run-folder.schema.json, made by `make docs`.

It describes a run as one document: the rows of run.sqlite with their JSON read, and manifest.json, as
docs/examples/read_run.py reads them. Columns come from the tables as SQLite has them, what they hold as JSON
from the dataclasses that are stored. A test fails where the file is not what this module writes.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from engine.runs.database import SCHEMA, SCHEMA_VERSION
from engine.runs.manifest import MANIFEST_VERSION
from engine.types import Critique, PlanReply, Prompt, ScoutForm

PATH: Final = Path(__file__).parents[2] / "docs" / "run-folder.schema.json"
JSON_COLUMNS: Final[Mapping[str, Any]] = {
    "reply": PlanReply,
    "prompt": Prompt,
    "critique": Critique,
    "selector_scores": dict[str, float],
    "form": ScoutForm,
    "scores": dict[str, float],
    "timings": dict[str, float],
}
"""Columns of text that hold JSON, and what is in it."""
KINDS: Final = {"TEXT": "string", "INTEGER": "integer", "REAL": "number"}
Schema = dict[str, Any]


def run_schema() -> Schema:
    """Draft 2020-12. What a later version adds is allowed; what it says here stays under its version."""
    definitions: Schema = {}
    tables = {name: _row(name, definitions) for name in ("scenarios", "attempts", "outcomes", "scouts")}
    whole = tables["scenarios"]
    whole["properties"] |= {
        "plan": {"anyOf": [_json("reply", definitions), {"type": "null"}]},
        "attempts": {"type": "array", "items": {"$ref": "#/$defs/attempt"}},
        "scouts": {"type": "array", "items": {"$ref": "#/$defs/scout"}},
        "outcome": {"anyOf": [{"$ref": "#/$defs/outcome"}, {"type": "null"}]},
        "choice": {"type": ["integer", "null"], "description": "the take that the user chose instead"},
    }
    whole["required"] += ["plan", "attempts", "scouts", "outcome", "choice"]
    tables["outcomes"]["oneOf"] = [
        {"properties": {"chosen": {"type": "integer"}, "failure": {"type": "null"}}},
        {"properties": {"chosen": {"type": "null"}, "failure": {"type": "string"}}},
    ]
    rows = {"attempt": tables["attempts"], "scout": tables["scouts"], "outcome": tables["outcomes"]}
    definitions |= {**rows, "manifest": _manifest()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run folder of Retake",
        "description": "Made by `make docs` from engine/runs/schema.py; told in docs/run-folder.md.",
        "type": "object",
        "properties": {
            "schema_version": {"const": SCHEMA_VERSION},
            "scenarios": {"type": "array", "items": whole},
            "manifest": {"anyOf": [{"$ref": "#/$defs/manifest"}, {"type": "null"}]},
        },
        "required": ["schema_version", "scenarios", "manifest"],
        "$defs": dict(sorted(definitions.items())),
    }


def _row(table: str, definitions: Schema) -> Schema:
    """A row by its columns."""
    database = sqlite3.connect(":memory:")
    database.executescript(SCHEMA)
    # table is one of ours; pragma_table_info takes it as a value
    columns = database.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,))
    properties = {
        name: _column(name, kind, bool(not_null or is_key), definitions)
        for name, kind, not_null, is_key in columns
    }
    database.close()
    return {"type": "object", "properties": properties, "required": list(properties)}


def _column(name: str, kind: str, always: bool, definitions: Schema) -> Schema:
    found: Schema = _json(name, definitions) if name in JSON_COLUMNS else {"type": KINDS[kind]}
    return found if always else {"anyOf": [found, {"type": "null"}]}


def _json(column: str, definitions: Schema) -> Schema:
    found = TypeAdapter(JSON_COLUMNS[column]).json_schema(ref_template="#/$defs/{model}")
    definitions |= found.pop("$defs", {})
    if "title" not in found:
        return found
    definitions[found["title"]] = found
    return {"$ref": f"#/$defs/{found['title']}"}


def _manifest() -> Schema:
    """What every version since the second has; more of it depends on models and settings."""
    text, texts = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}
    model = {
        "type": "object",
        "properties": {"folder": text, "sha256": texts},
        "required": ["folder", "sha256"],
    }
    return {
        "type": "object",
        "properties": {
            "manifest_version": {"const": MANIFEST_VERSION},
            "started": {"type": "string", "format": "date-time"},
            "argv": {"type": "array", "items": text},
            "code": {"type": "object", "required": ["commit", "dirty"]},
            "machine": {"type": "object", "required": ["system", "python", "cpu", "gpus"]},
            "packages": texts,
            "models": {"type": "object", "additionalProperties": model},
            "seeds": {"type": "object", "additionalProperties": {"type": "integer"}},
            "prefixes": texts,
            "config": {"type": "object"},
            "resolved": {"type": "object"},
            "denoiser": texts,
            "critic": texts,
        },
        "required": ["manifest_version", "started", "argv", "packages", "models", "seeds", "config"],
    }


def schema_text() -> str:
    return json.dumps(run_schema(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> None:
    path = Path(arguments[0]) if arguments else PATH
    path.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
