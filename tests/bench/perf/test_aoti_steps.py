"""The measurement of AOTInductor packages: wrong forms are not timed, dead steps are told, done ones kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.perf import aoti, aoti_steps
from bench.results_page.page import section_of
from bench.results_page.result_files import ResultFile
from engine.errors import RetakeError


@pytest.fixture
def job(tmp_path: Path) -> aoti_steps.Job:
    return aoti_steps.Job(name="measure-bf16,fp8", recipe="bf16,fp8", work=tmp_path, spawned_s=0.0, tiny=True)


def options(work: Path, **changes: Any) -> Any:
    import argparse

    given = {"work": work, "rounds": 4, "jobs": 2, "tiny": True}
    return argparse.Namespace(**given | changes)


def test_a_form_that_is_not_close_is_not_timed(job: aoti_steps.Job) -> None:
    exact = torch.linspace(-1, 1, 50)
    row, forward, velocity = aoti_steps.first_call(
        job, "right", lambda row: lambda: exact + 1e-4, exact, 0.01
    )
    assert forward is not None and velocity is not None and "reason" not in row
    assert 0 < row["relative_error"] < 0.01 and row["first_call_s"] > 0
    row, forward, _ = aoti_steps.first_call(job, "wrong", lambda row: lambda: 1.5 * exact, exact, 0.01)
    assert forward is None and row["reason"] == "relative error 0.5, allowed 0.01: not timed"
    row, forward, _ = aoti_steps.first_call(job, "nan", lambda row: lambda: exact * torch.nan, exact, 0.01)
    assert forward is None and "not timed" in row["reason"]


def test_a_form_that_fails_has_its_reason(job: aoti_steps.Job) -> None:
    def fails(row: dict[str, Any]) -> Any:
        raise RetakeError("no package", fix="make one")

    row, forward, velocity = aoti_steps.first_call(job, "AOTI bf16", fails, torch.ones(3), 0.01)
    assert forward is None and velocity is None and "no package" in row["reason"]


def test_a_failed_step_leaves_what_it_had(job: aoti_steps.Job) -> None:
    def step(job: aoti_steps.Job) -> None:
        with job.lap("module_s"):
            pass
        raise RuntimeError("no compiler")

    assert not aoti_steps.run(job, step)
    told = json.loads((job.work / f"{job.name}.json").read_text())
    assert told["reason"] == "RuntimeError: no compiler" and told["module_s"] >= 0 and "finished" not in told
    assert aoti_steps.run(
        aoti_steps.Job(name="x", recipe="bf16", work=job.work, spawned_s=0.0), lambda job: None
    )
    assert json.loads((job.work / "x.json").read_text())["finished"]


def test_every_form_is_compared_with_the_eager_module(
    job: aoti_steps.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eager bf16 with the library, eager FP8 with eager bf16, the other forms with the eager one."""
    values = {"eager bf16": 1.0, "torch.compile bf16": 1.01, "eager fp8": 1.15, "AOTI fp8": 1.2}
    values["package fp8"] = values["AOTI fp8"]

    def forms(job: Any, made: Any, recipe: str, inputs: Any) -> Any:
        return {
            name: lambda row, value=value: lambda: torch.full((4,), value)
            for name, value in values.items()
            if name.endswith(recipe)
        }

    made = aoti_steps.module_of(job, "bf16")
    monkeypatch.setattr(aoti_steps, "module_of", lambda job, recipe: made)
    monkeypatch.setattr(aoti_steps, "library", lambda job, inputs: torch.full((4,), 1.04))
    monkeypatch.setattr(aoti_steps, "forms_of", forms)
    job.rounds = 2
    aoti_steps.measure(job)
    rows = {row["name"]: row for row in job.record["rows"]}
    errors = {name: round(row["relative_error"], 3) for name, row in rows.items()}
    assert errors == {
        "eager bf16": 0.038,
        "torch.compile bf16": 0.01,
        "eager fp8": 0.15,
        "AOTI fp8": 0.043,
        "package fp8": 0.043,
    }
    assert [row["equal_to"] for row in rows.values()] == [[], [], [], [], ["AOTI fp8"]]
    assert all(len(row["ms"]) == 2 for row in rows.values())
    assert [row["stock"] for row in rows.values()] == [True, True, True, False, True]


def test_a_step_is_run_once_unless_it_did_not_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def process(command: list[str], check: bool) -> Any:
        started.append(command)
        return subprocess.CompletedProcess(command, 137)

    monkeypatch.setattr(aoti.subprocess, "run", process)
    step, path = aoti.TOGETHER[0], tmp_path / "package-bf16.json"
    path.write_text(json.dumps({"finished": True}))
    aoti.run_step(step, options(tmp_path))
    assert not started
    path.write_text(json.dumps({"module_s": 1.0}))
    aoti.run_step(step, options(tmp_path))
    (command,) = started
    assert command[:2] == ["env", f"TORCHINDUCTOR_CACHE_DIR={tmp_path / 'cache-package-bf16'}"]
    assert command[2] == sys.executable and "--tiny" in command
    assert json.loads(path.read_text()) == {"reason": "the process ended with code 137"}


def test_the_document_has_what_is_there(tmp_path: Path) -> None:
    found = aoti.document(options(tmp_path), {})
    assert found["rows"] == found["packages"] == found["starts"] == [] and found["failed"] == {}
    rows = [
        {
            "name": "eager bf16",
            "stock": True,
            "accuracy": "16 bits",
            "equal_to": ["eager fp32"],
            "relative_error": 0.01,
        }
    ]
    for name, record in {
        "measure-bf16,fp8": {"rows": rows},
        "load-bf16": {"import_s": 3.0, "load_s": 1.5, "first_call_s": 0.5, "finished": True},
        "cold-bf16": {"import_s": 4.0, "first_call_s": 80.0, "cache_hits": 0, "cache_misses": 1},
        "package-fp8": {"reason": "RuntimeError: no compiler"},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    found = aoti.document(options(tmp_path), {})
    assert found["rows"][0]["reason"] == "interrupted before it was timed"
    assert [start["name"] for start in found["starts"]] == [
        "AOTI bf16, package loaded",
        "torch.compile bf16, empty cache",
    ]
    section = section_of(ResultFile(name="aoti", kind="aoti", document=found))
    assert "AOTI bf16, package loaded: 2 s to the first forward" in section.headline
    assert "| torch.compile bf16, empty cache | 4 |" in section.body
    assert "eager bf16 gives what eager fp32 gives" in section.body
    assert "package-fp8: RuntimeError: no compiler" in section.body


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_measurement_at_its_tiny_size(tmp_path: Path) -> None:
    """Compiles four modules of four layers: minutes."""
    out = tmp_path / "aoti.json"
    code = aoti.main(
        ["--tiny", "--rounds", "2", "--jobs", "1", "--work", str(tmp_path / "work"), "--out", str(out)]
    )
    found = json.loads(out.read_text())
    assert code == 0 and found["failed"] == {}
    assert len(found["rows"]) == 6 and len(found["packages"]) == 2 and len(found["starts"]) == 6
    assert all(row["ms"] for row in found["rows"])
    warm = [start for start in found["starts"] if start["name"].endswith("filled cache")]
    assert all(start["cache_hits"] > 0 and start["cache_misses"] == 0 for start in warm)
