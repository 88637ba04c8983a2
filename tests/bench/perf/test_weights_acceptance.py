"""The acceptance of published weights, tried with tiny ones: what is missing is said, the rest is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_run import make_folders, script_the_critic

from bench.perf import weights_acceptance as acceptance
from engine.errors import ConfigError


def test_what_is_missing_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert acceptance.main(["--critic", str(tmp_path), "--json", str(tmp_path / "a.json")]) == 2
    said = capsys.readouterr().err
    assert "missing: the generator: give GENERATOR=DIR, a diffusers folder" in said
    assert "missing: the critic:" in said and "config.json" in said
    assert ("missing: the device:" in said) == (not torch.cuda.is_available())
    assert list(tmp_path.iterdir()) == []


def test_bundled_models_are_not_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert acceptance.main(["--generator", "demo", "--critic", "demo", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.count("missing: the ") == 2


def test_the_document_of_tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_the_critic(monkeypatch)
    monkeypatch.setattr(acceptance, "SIZE_PX", 64)
    folders = make_folders(tmp_path)
    models = ["--generator", str(folders.generator), "--critic", str(folders.critic), "--device", "cpu"]
    places = ["--out", str(tmp_path / "run"), "--json", str(tmp_path / "a.json")]
    small = ["--scenes", "1", "--loops", "0", "--preset", "exact"]
    assert acceptance.main([*models, *places, *small]) == 0
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["passed"] and document["within_plan"] and document["failures"] == {}
    assert document["settings"]["scenes"] == 1 and document["plan"]["memory"]["required_bytes"] > 0
    assert document["seconds"].keys() >= {"load", "run", "first_scenario", "scenario"}
    assert [take["take"] for take in document["takes"]] == [0]
    assert all(take["timings_s"]["generate"] > 0 for take in document["takes"])
    assert set(document["weights_sha256"]) == {"generator", "critic"}
    assert str(tmp_path) not in json.dumps(document)  # it is sent to others


def test_no_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 scenes"):
        acceptance.write_clips(tmp_path, 0)


def test_seconds_of_a_scenario() -> None:
    assert acceptance.per_scenario([]) == {}
    assert acceptance.per_scenario([8.0]) == {"first_scenario": 8.0, "scenario": 8.0}
    found = acceptance.per_scenario([8.0, 10.0, 12.0])
    assert found == {"first_scenario": 8.0, "scenario": 4.0, "warm_scenario": 2.0}
