"""A run is pinned with its scores and frames; one that was not scored is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_run import make_folders, script_the_critic

import engine
import retake
from bench.quality.demo_run import SECONDS, main
from bench.results_page.demo_section import demo_run
from bench.results_page.result_files import read_file
from engine.video.files import probe, read_frames


def decoded(text: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_a_run_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script_the_critic(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(engine.__file__).parents[1]))
    folders, out = make_folders(tmp_path), tmp_path / "run"
    models = {"generator.name": str(folders.generator), "critic.name": str(folders.critic)}
    run = retake.run(folders.dataset, out, {**models, "device": "cpu", "loop.loops": 1, "limit": 1})
    target = tmp_path / "pinned.json"
    assert main([str(out), "--out", str(target)]) == 2 and not target.exists()
    assert "retake score" in capsys.readouterr().err
    scores = retake.score(out, all_takes=True, cache=tmp_path / "cache")
    assert main([str(out), "--out", str(target)]) == 0
    pinned = read_file(target)
    (name,) = run.scenarios
    (scene,) = pinned.document["scenes"]
    assert (scene["first"], scene["chosen"]) == (scores.takes[name, 0], scores.takes[name, 1])
    assert (scene["scene"], scene["num_takes"], scene["stopped"]) == ("sliding-square", 2, "loops")
    frames = read_frames(probe(run.video(run.scenarios[name].attempts[1])))
    small = np.stack([cv2.resize(one, (96, 96), interpolation=cv2.INTER_AREA) for one in frames])
    assert (scene["take"], pinned.document["seconds"]) == (1, list(SECONDS))
    for text, index in zip(scene["made"], (7, 23, 39), strict=True):
        apart = np.abs(small.astype(int) - decoded(text)).mean(axis=(1, 2, 3))
        assert apart.argmin() == index
    assert len(scene["real"]) == len(SECONDS) and decoded(scene["prefix"]).shape == (96, 96, 3)
    assert str(tmp_path) not in json.dumps(pinned.document)
    assert demo_run(pinned).plots
