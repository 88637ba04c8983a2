"""The whole measurement with tiny models and two workers on this CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from whole_runs import tiny_models

from bench.perf.scaling.__main__ import main


@pytest.mark.slow
def test_two_workers_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is optional: pip install '.[cluster]'")
    monkeypatch.setenv("RETAKE_THREADS", "1")
    out, parts = tmp_path / "dry.json", tmp_path / "parts"
    options = ["--workers", "2", "--size", "tiny", "--scenarios", "2", "--models", str(tiny_models())]
    options += ["--parts", str(parts), "--out", str(out)]
    assert main([*options, "--only", "one"]) == 0 and not out.exists()
    assert main(options) == 0
    document = json.loads(out.read_text())
    assert document["all_checks_hold"] and document["on"] == "cpu"
    assert [part["num_workers"] for part in document["parts"]] == [1, 2, 2]


def test_the_models_must_be_made_and_gpus_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--models", str(tmp_path), "--parts", str(tmp_path), "--out", str(tmp_path / "o")])
