"""Scouts together beside scouts alone, on tiny models: what is measured, and that a difference is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_run import make_folders

from bench.perf import scout_batches
from engine.generators.wan.generator import WanGenerator


@pytest.mark.slow
def test_a_batch_is_compared_with_its_scouts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("RETAKE_CACHE", str(tmp_path / "cache"))
    folders, out = make_folders(tmp_path / "tiny"), tmp_path / "found.json"
    given = [
        *("--generator", folders.generator, "--dataset", folders.dataset, "--device", "cpu"),
        *("--dtype", "fp32", "--scout-steps", 1, "--together", 2, "--rounds", 1, "--out", out),
    ]
    words = [str(word) for word in given]
    # a take of the tiny folder has one step, and a scout must have fewer
    sidecar = folders.generator / "retake.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"num_inference_steps": 2}))
    assert scout_batches.main(words) == 0
    document = json.loads(out.read_text())
    (row,) = document["rows"]
    assert row["together"] == 2 and row["relative_error"] < 1e-5 and row["together_s"] > 0
    assert str(tmp_path) not in json.dumps(document["command"])

    one = WanGenerator.scouts

    def swapped(self, scenario, prompts, form, shown):  # type: ignore[no-untyped-def]
        return one(self, scenario, prompts[::-1], form, shown)

    monkeypatch.setattr(WanGenerator, "scouts", swapped)
    assert scout_batches.main(words) == 1, "rows that are another scout's are no rounding"


def test_the_simulated_scene_is_for_generators_of_its_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = make_folders(tmp_path / "tiny")
    sidecar = folders.generator / "retake.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"fps": 4}))
    given = ["--generator", str(folders.generator), "--device", "cpu", "--dtype", "fp32"]
    assert scout_batches.main([*given, "--out", str(tmp_path / "found.json")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "has 8 frames a second" in told and "takes 4" in told and "--dataset DIR" in told
