"""docs/run-folder.md, its JSON Schema and its reader say what a run folder holds."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from report_run import SCENES
from report_run import make_run as make_report_run
from run_documents import DOCS, PAGE, TOLD, faults, read

from engine.report.eval_log import DEFAULT_NAME
from engine.runs.choices import choose
from engine.runs.database import SCHEMA, SCHEMA_VERSION
from engine.runs.folder import CHOSEN, DATABASE, JOINED, LOCK, VIDEOS
from engine.runs.listing import OWN
from engine.runs.manifest import MANIFEST_VERSION
from engine.runs.schema import PATH as SCHEMA_FILE
from engine.runs.schema import main, run_schema, schema_text

READER_LINES = 20
Document = dict[str, Any]


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """Six scenarios: one failed, one unfinished, a reply that could not be read, a choice of the user's."""
    run = make_report_run(tmp_path_factory.mktemp("varied"))
    choose(run, SCENES[0][0], 0)
    document = read(run)
    return document | {"manifest": None}  # not one of a run


def test_the_schema_is_what_the_types_say_now(tmp_path: Path) -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run `make docs`"
    jsonschema.Draft202012Validator.check_schema(run_schema())
    main([str(tmp_path / "schema.json")])
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == schema_text()


def test_a_run_is_as_the_schema_says(varied: Document) -> None:
    """One with a manifest of its own: tests/engine/api/test_runs.py."""
    assert faults(json.loads(json.dumps(varied, allow_nan=False))) == []
    assert [one["outcome"] is None for one in varied["scenarios"]] == [False] * 5 + [True]
    assert varied["scenarios"][0]["choice"] == 0 and varied["scenarios"][4]["outcome"]["failure"]


def test_the_schema_sees_what_is_no_run(varied: Document) -> None:
    def fault_of(change: Any) -> list[str]:
        document = json.loads(json.dumps(varied))
        change(document["scenarios"][0])
        return faults(document)

    assert fault_of(lambda one: one.pop("outcome")) == ["$.scenarios[0]: 'outcome' is a required property"]
    assert fault_of(lambda one: one["outcome"].update(failure="and chosen"))
    assert fault_of(lambda one: one["attempts"][0]["prompt"].update(seed="7"))
    assert fault_of(lambda one: one["attempts"][0]["critique"].update(verdict="perfect"))
    assert faults(varied | {"schema_version": SCHEMA_VERSION + 1})


def test_the_reader_is_short_and_needs_nothing() -> None:
    source = (DOCS / "examples" / "read_run.py").read_text(encoding="utf-8")
    code = source.partition("\ndef ")[2].partition("\nif __name__")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= READER_LINES
    assert set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)) == {
        "json",
        "sqlite3",
        "sys",
        "pathlib",
    }


def test_the_page_names_every_table_and_column() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(SCHEMA)
    for (table,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        assert {table, *columns} <= TOLD, table
    database.close()


def test_the_page_names_every_file_that_a_run_may_have() -> None:
    """Those that are removed with it, which `retake eval-log` writes to among them."""
    folders = {f"{name}/" for name in (VIDEOS, CHOSEN, JOINED)}
    assert ({*OWN, DATABASE, LOCK} - {VIDEOS, CHOSEN, JOINED}) | folders <= TOLD
    assert DEFAULT_NAME in OWN


def test_the_page_states_the_versions() -> None:
    assert f"store {SCHEMA_VERSION}, manifest {MANIFEST_VERSION}" in PAGE
    versions = re.findall(r"^\| (\d+) \|", PAGE.partition("## Versions")[2], re.MULTILINE)
    assert versions == [str(number) for number in range(1, SCHEMA_VERSION + 1)]
