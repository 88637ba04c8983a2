"""The table of memory: made on a CPU with tiny models, gone on with, told on the page; its checks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from whole_runs import tiny_models

from bench.perf.memory import measure
from bench.perf.memory.__main__ import main
from bench.perf.memory.combinations import combinations
from bench.perf.memory.document import joined, plan_error, same_run
from bench.results_page.page import make_page
from engine.machine.memory import CONTEXT_BYTES, GIB


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_rows_are_measured_one_by_one_and_not_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_turn = combinations(["exact"], ["1MiB"])[2:]
    monkeypatch.setattr(measure, "combinations", lambda presets, budgets: in_turn)
    out = tmp_path / "results" / "memory_cpu.json"
    words = ["--models", str(tiny_models()), "--out", str(out), "--only", "exact", "--steps", "1"]
    assert main([*words, "--budgets", "1MiB"], started_s=time.perf_counter()) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["name"], row["state"]) for row in rows] == [
        ("exact, in turn, unlimited", "run"),
        ("exact, in turn, 1MiB", "refused"),
    ]
    assert [row.get("num_takes") for row in rows] == [1, None]
    assert rows[0]["planned_bytes"] > 0 and rows[0]["num_spans"] > 10 and not rows[0]["failures"]
    before = out.stat().st_mtime_ns
    assert main([*words, "--budgets", "1MiB"], started_s=time.perf_counter()) == 0
    assert out.stat().st_mtime_ns == before, "all of it is there"
    document = joined(rows, {"size": "tiny", "steps": 1}, "python -m bench.perf.memory")
    out.write_text(json.dumps(document))
    assert document["summary"]["num_refused"] == 1 and document["all_checks_hold"] == all(
        check["holds"] for check in document["checks"]
    )
    text = make_page(out.parent).text
    assert "## How much memory does a run take" in text and "| exact | in turn | 1MiB | refused |" in text


def test_a_folder_that_was_not_made_for_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--models", str(tmp_path), "--out", str(tmp_path / "m.json")]) == 2
    assert "holds no made.json" in capsys.readouterr().err


def row(name: str, **facts: Any) -> dict[str, Any]:
    made = {"name": name, "preset": "fast", "overlap": True, "vram": "24GiB", "state": "run", "changed": []}
    return made | {"seconds_per_take": 9.0, "planned_bytes": 20 * GIB} | facts


def test_plans_are_off_by_their_worst_and_budgets_hold_the_context_too() -> None:
    kept = row("kept", peak_allocated_bytes=19 * GIB, peak_reserved_bytes=24 * GIB - CONTEXT_BYTES)
    beyond = row(
        "beyond", peak_allocated_bytes=25 * GIB, peak_reserved_bytes=24 * GIB, profile_overhead=0.002
    )
    refused = {"name": "no", "preset": "fast", "overlap": True, "vram": "8GiB", "state": "refused"}
    document = joined([kept, beyond, refused], {"size": "full", "steps": 4}, "x")
    assert plan_error(kept) == pytest.approx(1 / 19) and plan_error(refused) is None
    assert document["summary"] == {
        "num_run": 2,
        "num_refused": 1,
        "plan_error_worst": pytest.approx(-0.2),
        "profile_overhead": 0.002,
    }
    checks = {check["name"].split(" ")[0]: check for check in document["checks"]}
    assert (checks["each"]["holds"], checks["each"]["found"]) == (False, "beyond")
    assert not checks["plans"]["holds"] and checks["spans"]["holds"] and checks["no"]["holds"]
    failed = joined([row("bad", failures=["no memory"])], {"size": "full", "steps": 4}, "x")
    assert not failed["all_checks_hold"]


def test_a_preset_is_measured_without_a_budget_first() -> None:
    found = combinations(["fast"], ["24GiB", "48GiB", "80GiB"])
    assert [one.vram for one in found] == ["", "48GiB", "80GiB", "24GiB"] * 2
    assert len({one.name for one in found}) == 8


def test_what_kept_to_a_smaller_budget_unchanged_need_not_run_under_a_larger_one() -> None:
    small = row("a", vram="48GiB", peak_reserved_bytes=30 * GIB, config="x")
    assert same_run([small], "x", "80GiB") is small
    assert same_run([small], "y", "80GiB") is None, "other settings"
    assert same_run([small], "x", "24GiB") is None and same_run([small], "x", "") is None
    assert same_run([small | {"peak_reserved_bytes": 48 * GIB}], "x", "80GiB") is None, (
        "it did not keep to it"
    )
