"""What the documents of benchmarks have alike: head, checks, rows that several processes add, how it is told.

Knows no benchmark. Invariant: rows of other settings never come into one document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from kernels.files import read_json

SCHEMA = 1
Row = Mapping[str, Any]


def check(name: str, holds: bool, found: object) -> dict[str, Any]:
    return {"name": name, "holds": bool(holds), "found": found}


def this_machine() -> dict[str, Any]:
    """The manifest of what is measured in this process, with what its times depend on."""
    from engine.runs.manifest import collect
    from kernels import timing  # imports torch, which a process that only starts others need not

    return collect({}, {}, seeds={}, argv=[]) | {"timing": timing.machine()}


def headed(
    kind: str,
    command: str,
    settings: Mapping[str, Any],
    checks: Sequence[dict[str, Any]],
    *,
    manifest: Mapping[str, Any] | None = None,
    summary: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The head of a document. `command` is what was asked, without the places of files; without a `manifest`
    it is that of this machine; a document may have no `summary`."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "command": command,
        "manifest": this_machine() if manifest is None else manifest,
        "settings": dict(settings),
        **({} if summary is None else {"summary": dict(summary)}),
        "checks": list(checks),
        "all_checks_hold": all(one["holds"] for one in checks),
    }


def read_rows(path: Path, kind: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of earlier processes; none without a file. ConfigError for a file of another kind or settings."""
    if not path.is_file():
        return []
    document = read_json(path)
    # what was left unfinished by earlier versions states no settings
    found = document.get("kind"), document.get("settings", dict(settings))
    if found != (kind, dict(settings)):
        raise ConfigError(
            f"{path} has {found[0]} with {found[1]}, not {kind} with {dict(settings)}",
            fix="name another --out, or give the settings of that file",
        )
    return list(document["rows"])


def with_row(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """`rows` with one more, in place of an earlier one of its name."""
    return [*(other for other in rows if other["name"] != row["name"]), row]


def told(document: Mapping[str, Any]) -> str:
    """Summary and checks, a line each."""
    lines = [f"{name:36s} {value:.4g}" for name, value in document.get("summary", {}).items()]
    for one in document["checks"]:
        found = f"{one['found']:.4g}" if isinstance(one["found"], float) else one["found"]
        lines.append(f"{'holds' if one['holds'] else 'FAILS'}: {one['name']}: {found}")
    return "\n".join(lines)
