"""Runs by settings: made, stopped, gone on with, and read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_documents import faults, read, untold
from tiny_run import Folders, script_the_critic

import retake
from engine.report.eval_log import write_eval_log
from engine.runs.manifest import MANIFEST_VERSION


def settings_of(folders: Folders) -> dict[str, object]:
    models = {"generator.name": str(folders.generator), "critic.name": str(folders.critic)}
    return {**models, "device": "cpu", "dtype": "fp32", "loop.loops": 1, "limit": 1}


def test_a_run_is_stopped_and_gone_on_with(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    out = tmp_path / "run"

    def stop(name: str, take: retake.Attempt) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retake.run(folders.dataset, out, settings_of(folders), on_take=stop)
    stopped = retake.read_run(out)
    assert sum(len(one.attempts) for one in stopped.scenarios.values()) == 1
    assert {one.outcome for one in stopped.scenarios.values()} == {None}
    takes: list[int] = []
    whole = retake.resume(out, on_take=lambda name, take: takes.append(take.index))
    assert takes == [1] and whole.folder == out
    for one in whole.scenarios.values():
        assert one.outcome is not None and one.outcome.chosen == 1
        assert one.chosen is not None and one.chosen.is_file() and len(one.attempts) == 2
    assert retake.report(out) == out / "report.html"
    other_tools_read(whole)


def other_tools_read(whole: retake.RunRecord) -> None:
    """As docs/run-folder.md says."""
    log = json.loads(write_eval_log(whole.folder, whole.folder / "log.json").read_text(encoding="utf-8"))
    assert log["status"] == "success" and log["eval"]["model"] == "retake/generator"
    assert log["eval"]["packages"]["numpy"] and log["eval"]["dataset"]["name"] == "dataset"
    (whole.folder / "log.json").unlink()
    document = json.loads(json.dumps(read(whole.folder), allow_nan=False))
    assert faults(document) == [] and untold(whole.folder) == set()
    assert document["manifest"]["manifest_version"] == MANIFEST_VERSION
    for scenario, (name, record) in zip(document["scenarios"], whole.scenarios.items(), strict=True):
        assert record.outcome is not None and record.plan is not None and record.plan.plan is not None
        assert (scenario["id"], scenario["outcome"]["chosen"]) == (name, record.outcome.chosen)
        assert scenario["plan"]["plan"]["camera"] == record.plan.plan.camera
        texts = [take["prompt"]["text"] for take in scenario["attempts"]]
        assert texts == [take.prompt.text for take in record.attempts]


def test_settings_lie_over_the_file(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('device = "cpu"\n[loop]\nloops = 99\n')
    with pytest.raises(retake.ConfigError, match="99"):
        retake.run(folders.dataset, tmp_path / "run", config=tmp_path / "a.toml")
    with pytest.raises(retake.ModelError, match="no-such-folder"):
        given = {"loop.loops": 1, "generator.name": "no-such-folder"}
        retake.run(folders.dataset, tmp_path / "run", given, config=tmp_path / "a.toml")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(retake.StoreError, match="not a run folder"):
        retake.read_run(tmp_path)
