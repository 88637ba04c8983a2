"""The head that documents have alike; those measured before it was shared would be written as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.perf.document import check, headed, read_rows, told, with_row
from bench.perf.end_to_end.join import join
from bench.perf.memory.document import KIND, joined
from engine.errors import ConfigError

RESULTS = Path(__file__).parents[3] / "bench" / "results"
MANIFEST = {"machine": {"gpus": []}}


def stored(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return document


def test_a_stored_table_of_memory_would_be_written_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    document = stored("memory_h200")
    rows = read_rows(RESULTS / "memory_h200.json", KIND, document["settings"])
    monkeypatch.setattr("bench.perf.document.this_machine", lambda: document["manifest"])
    assert rows and joined(rows, document["settings"], document["command"]) == document


def test_stored_parts_of_whole_runs_would_be_joined_as_they_are(tmp_path: Path) -> None:
    document = stored("end_to_end_h200")
    paths = [tmp_path / f"{number}.json" for number in range(len(document["parts"]))]
    for path, part in zip(paths, document["parts"], strict=True):
        path.write_text(json.dumps(part))
    found = json.loads(json.dumps(join(paths)))
    assert found.pop("notes") and document.pop("notes")  # which may be worded better meanwhile
    assert found == document


def test_a_document_may_have_no_summary_and_says_whether_all_holds() -> None:
    checks = [check("a", True, "all"), check("b", False, 0.25)]
    bare = headed("k", "c", {"size": "tiny"}, checks, manifest=MANIFEST)
    assert list(bare) == ["schema", "kind", "command", "manifest", "settings", "checks", "all_checks_hold"]
    assert (bare["schema"], bare["kind"], bare["all_checks_hold"]) == (1, "k", False)
    assert told(bare).splitlines() == ["holds: a: all", "FAILS: b: 0.25"]
    summed = headed("k", "c", {}, checks[:1], manifest=MANIFEST, summary={"takes": 2})
    assert summed["all_checks_hold"] and told(summed).split() == ["takes", "2", "holds:", "a:", "all"]


def test_without_a_manifest_it_is_that_of_this_machine() -> None:
    manifest = headed("k", "c", {}, [])["manifest"]
    assert manifest["packages"]["torch"] and manifest["timing"]["torch"]


def test_rows_are_read_of_the_same_settings_alone(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.json", [{"name": "a"}]
    assert read_rows(path, "k", {"size": "full"}) == []
    path.write_text(json.dumps(headed("k", "c", {"size": "full"}, [], manifest=MANIFEST) | {"rows": rows}))
    assert read_rows(path, "k", {"size": "full"}) == rows
    for kind, settings in (("k", {"size": "tiny"}), ("other", {"size": "full"})):
        with pytest.raises(ConfigError, match=r"x\.json has k with \{'size': 'full'\}, not "):
            read_rows(path, kind, settings)
    path.write_text(json.dumps({"schema": 1, "kind": "k", "rows": rows}))  # unfinished, by an earlier version
    assert read_rows(path, "k", {"size": "full"}) == rows


def test_a_row_measured_again_takes_the_place_of_the_earlier_one() -> None:
    rows = [{"name": "a", "state": "failed"}, {"name": "b"}]
    assert with_row(rows, {"name": "a", "state": "run"}) == [{"name": "b"}, {"name": "a", "state": "run"}]
    assert with_row(rows, {"name": "c"}) == [*rows, {"name": "c"}]
