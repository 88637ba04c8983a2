"""`retake profile`: of a run that is over, of a new one on a dataset, and of two runs side by side."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_run import scenario
from tiny_run import Folders, make_folders, script_the_critic
from typer.testing import CliRunner

from engine import cli
from engine.runs.store import RunStore
from engine.runs.trace import Span
from engine.runs.trace_file import TRACE, write_trace
from engine.types import Outcome


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("models"))


def old_run(path: Path, *, step_s: float, ended: bool = True) -> Path:
    """What a profile reads of a run that is over, or of one that was stopped."""
    one = scenario(1)
    with RunStore.create(path, (one,)) as store:
        if ended:
            store.outcome(Outcome(scenario_id=one.id, attempts=(), failure="no clip"))
    spans = [
        Span(
            lane="generate",
            scenario_id=one.id,
            attempt=0,
            name="generate",
            stage="denoise step",
            start_s=index * step_s,
            end_s=(index + 1) * step_s,
        )
        for index in range(4)
    ]
    write_trace(path / TRACE, spans)
    return path


def call(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["profile", *map(str, arguments)])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result.output


def test_of_a_new_run_on_a_dataset(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage has a row; and the same run is profiled again from its folder."""
    script_the_critic(monkeypatch)
    out, document = tmp_path / "run", tmp_path / "profile.json"
    models = ("--generator", folders.generator, "--critic", folders.critic, "--device", "cpu")
    options = ("--dtype", "fp32", "--loops", 0, "--limit", 1, "--out", out)
    output = call(folders.dataset, *models, *options, "--json", document)
    found = json.loads(document.read_text())
    stages = {(row["lane"], row["stage"]) for row in found["latencies"]}
    assert {("generate", name) for name in ("encode", "denoise step", "VAE pass")} <= stages
    assert {("prefix", "generate"), ("result", "generate"), ("encode", "encode"), ("store", "take")} <= stages
    assert found["num_scenarios"] == 1 and 0 < found["efficiency"] <= 1
    outer = {path: seconds for path, seconds in found["setup_s"].items() if "/" not in path}
    assert {"prepare", "load", "hash"} <= outer.keys() <= {"process", "prepare", "load", "hash"}
    inner = {"prepare/imports", "prepare/outlines", "prepare/clips", "load/generator/weights", "load/critic"}
    assert inner <= found["setup_s"].keys() and "│   imports " in output
    for outer_path, seconds in outer.items():
        parts = (s for path, s in found["setup_s"].items() if path.rpartition("/")[0] == outer_path)
        assert seconds >= sum(parts)
    assert "overlap: " in output and (out / "profile.svg").read_text().startswith("<svg")
    assert_tracks_are_in_order(json.loads((out / "trace.json").read_text())["traceEvents"])
    again = tmp_path / "again.json"
    call(out, "--json", again)
    assert json.loads(again.read_text())["latencies"] == found["latencies"]
    assert "leave the settings out" in call(out, "--loops", 1, status=2)


def assert_tracks_are_in_order(events: list[dict[str, Any]]) -> None:
    """As the format wants it: each track has a name, is of one process, and no slices of it overlap."""
    named = {(one["pid"], one["tid"]) for one in events if one["name"] == "thread_name"}
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for one in events:
        if one["ph"] == "X":
            tracks[one["pid"], one["tid"]].append((one["ts"], one["ts"] + one["dur"]))
    assert tracks.keys() <= named and len({tid for _, tid in tracks}) == len(tracks)
    for slices in tracks.values():
        ordered = sorted(slices)
        assert all(end <= start for (_, end), (start, _) in pairwise(ordered))


def test_of_two_runs_side_by_side(tmp_path: Path) -> None:
    first, second = old_run(tmp_path / "first", step_s=1.0), old_run(tmp_path / "second", step_s=1.5)
    document = tmp_path / "p.json"
    output = call(first, "--compare", second, "--json", document)
    assert "seconds more" in output and "+2.00" in output
    assert "4.0 s a scenario, then 6.0 s" in output
    found = json.loads(document.read_text())
    assert (found["wall_s"], found["compared_with"]["wall_s"]) == (4.0, 6.0)


def test_a_stopped_run_has_no_seconds_of_a_scenario(tmp_path: Path) -> None:
    stopped = old_run(tmp_path / "stopped", step_s=1.0, ended=False)
    assert "none of 1 scenario ended in 4.0 s" in call(stopped)
    over = old_run(tmp_path / "over", step_s=1.0)
    assert "1 scenario in 4.0 s: 4.0 s each, 4.0 s of the device" in call(over)
    assert "has ended" in call(over, "--compare", stopped, status=2)


def test_a_run_without_a_trace_is_refused(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", step_s=1.0)
    (run / TRACE).unlink()
    assert "StoreError" in call(run, status=2)


@pytest.mark.slow
def test_the_bundled_models(tmp_path: Path) -> None:
    """Planned, run and profiled as a user's first run is."""
    runner, scenes = CliRunner(), tmp_path / "scenes"
    assert runner.invoke(cli.app, ["scenes", str(scenes)]).exit_code == 0
    planned = runner.invoke(cli.app, ["plan", str(scenes), "--no-time", "--gpu", "RTX 4090"])
    assert planned.exit_code == 0 and "critic: slots" in planned.output
    document = tmp_path / "p.json"
    call(scenes, "--limit", 1, "--loops", 0, "--steps", 2, "--out", tmp_path / "run", "--json", document)
    stages = {row["stage"] for row in json.loads(document.read_text())["latencies"]}
    assert {"denoise step", "VAE pass", "prefill", "16 decode steps"} <= stages
