"""`retake profile`: of a run that is over, of a new one on a dataset, and of two runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_run import make_run
from tiny_run import Folders, make_folders, script_the_critic
from typer.testing import CliRunner

from engine import cli


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("models"))


def folder(path: Path) -> Path:
    path.mkdir()
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
    assert "overlap: " in output and (out / "profile.svg").read_text().startswith("<svg")
    again = tmp_path / "again.json"
    call(out, "--json", again)
    assert json.loads(again.read_text())["latencies"] == found["latencies"]
    assert "leave the settings out" in call(out, "--loops", 1, status=2)


def test_of_two_runs_side_by_side(tmp_path: Path) -> None:
    first, second = (make_run(folder(tmp_path / name)) for name in ("first", "second"))
    output = call(first, "--compare", second)
    assert "seconds more" in output and "a scenario, then" in output


def test_a_run_without_a_trace_is_refused(tmp_path: Path) -> None:
    run = make_run(folder(tmp_path / "run"))
    (run / "trace.json").unlink()
    assert "holds no trace" in call(run, status=2)
