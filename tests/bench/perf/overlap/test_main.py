"""The command: a document after each round, ways that fail beside those that do not, a budget."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from whole_runs import tiny_models

from bench.perf.overlap import __main__ as command
from bench.perf.overlap import sharing
from bench.perf.overlap.sharing import ONE_STREAM
from bench.perf.overlap.work import Ran, Subject
from bench.results_page.page import make_page


def run(folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    out = folder / "overlap_cpu.json"
    arguments = ["--models", str(tiny_models()), "--size", "tiny", "--rounds", "1", *more]
    status = command.main([*arguments, "--out", str(out)], started_s=time.perf_counter())
    return status, json.loads(out.read_text())


@pytest.mark.slow
def test_tiny_models_run_in_every_way_of_a_cpu(tmp_path: Path) -> None:
    status, document = run(tmp_path, "--at-once", "1", "2")
    assert status == 0 and document["checks"][0]["holds"]
    done = [way for way in document["ways"] if "runs_s" in way]
    assert len(done) == 8 and all(way["equal"] for way in done)
    assert {"four_step_over_slicing", "critic_share_hidden"} <= set(document["summary"])
    assert {way["reason"] for way in document["ways"] if way not in done} == {"needs an NVIDIA GPU"}
    assert "## What does it bring to run both at once?" in make_page(tmp_path).text


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are not loaded and runs of no time; turns on one stream break."""

    def ran(self: Any, amount: Any, on_lane: Any, **ways: Any) -> Ran:
        if on_lane == ONE_STREAM:
            raise RuntimeError("out of memory")
        replies = ["r"] * amount.replies
        return Ran(makespan_s=1.0, spans=(), takes=(), replies=replies, tokens=1, gpu={})

    class Same:
        def __init__(self, chosen: Any, lanes: Any) -> None:
            self.chosen = chosen

        def __enter__(self) -> Any:
            return self.chosen

        def __exit__(self, *error: object) -> None: ...

    class Generator:
        notes = {"forward": "fast"}

    nothing: Any = None
    made = Subject(
        generator=Generator(), loaded_critic=nothing, scenario=nothing, device=nothing, lanes=nothing
    )
    monkeypatch.setattr("bench.perf.overlap.work.subject_of", lambda *_, **__: made)
    monkeypatch.setattr(Subject, "show", lambda self: None)
    monkeypatch.setattr(Subject, "run", ran)
    monkeypatch.setattr(sharing, "shared", Same)
    monkeypatch.setattr(sharing, "missing", lambda one, device: None)
    monkeypatch.setattr(
        sharing, "self_test", lambda on_lane, device: "wrong" * bool(on_lane.green_sms) or None
    )


@pytest.mark.usefixtures("instant")
def test_a_way_that_fails_has_its_reason(tmp_path: Path) -> None:
    status, document = run(tmp_path)
    reasons = {way["sharing"]: way.get("reason") for way in document["ways"]}
    assert reasons[ONE_STREAM.name] == "RuntimeError: out of memory"
    assert reasons["green context without 16"] == "wrong" and reasons["streams, equal"] is None
    assert status == 0 and "four_step_over_slicing" not in document["summary"]
    assert document["notes_of_models"] == {"forward": "fast"}


@pytest.mark.usefixtures("instant")
def test_a_spent_budget_ends_it_with_what_there_is(tmp_path: Path) -> None:
    status, document = run(tmp_path, "--budget", "-1")
    assert status == 1 and not any("runs_s" in way for way in document["ways"])
