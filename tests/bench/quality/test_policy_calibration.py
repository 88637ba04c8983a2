"""The policy measured on a tiny generator: training scenes alone, every timestep, a policy that fits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_denoise as tiny
from tiny_wan import build_folder, edit

from bench.quality import export_trajectories, policy_calibration
from engine.demo.scenes.base import HELD_OUT_SEED0
from engine.generators.wan import generator as wan
from engine.quant.precision_policy import FILE, Policy
from engine.settings.presets import PRESETS, STEP_CACHES, DenoiseSettings

STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build_folder(tmp_path_factory.mktemp("wan") / "m")
    edit(made, "retake.json", clip_prompts=True)  # its text encoder reads 24 tokens
    tiny.transformer(patch_px=2, num_layers=4, head_dim=16).save_pretrained(made / "transformer")
    return made


def test_scenes_are_of_training_seeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    make = export_trajectories.make_scene
    monkeypatch.setattr(
        export_trajectories, "make_scene", lambda seed, kinds: seeds.append(seed) or make(seed, kinds)
    )
    generator = wan.load(folder, device="cpu", dtype="fp32")
    before = generator.denoiser
    errors, changes = policy_calibration.measure(generator, 1, 16)
    assert len(seeds) == 1 and seeds[0] < HELD_OUT_SEED0
    assert generator.denoiser is before
    assert len({error.timestep for error in errors}) == STEPS
    assert {error.timestep for error in errors} == set(generator.schedule.timesteps)
    assert len(errors) == (16 * 3 + 4 * 3) * STEPS and all(np.isfinite(e.relative_error) for e in errors)
    assert set(changes) == set(STEP_CACHES[1:])
    for rule, curve in changes.items():
        measured = generator.schedule.timesteps[2 if rule == "extrapolation" else 1 :]
        assert [timestep for timestep, _ in curve] == [1000.0, *measured]
        assert curve[-1][1] > 0
    hooks = [m for m in generator.parts.transformer.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks


def test_the_suite_writes_a_policy_that_the_presets_follow(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy_calibration.json"
    assert (
        policy_calibration.main(
            ["--generator", str(folder), "--scenes", "1", "--rows", "16", "--out", str(out)]
        )
        == 0
    )
    policy = Policy.load(folder / FILE)
    written = json.loads(out.read_text())
    assert written["schema"] == 1 and written["kind"] == "policy" and written["source"] == policy.source
    assert {row["name"] for row in written["rows"]} == {
        *("linear fp8", "linear fp8_full_accum", "linear int8"),
        *("attention fp8", "attention int8", "attention sparse"),
    }
    assert f"{len(policy.entries)} entries" in capsys.readouterr().out
    generator = wan.load(folder, device="cpu", dtype="fp32", denoise=PRESETS["fast"])
    assert generator.notes["policy"] == f"followed: {policy.producer}"
    settings = DenoiseSettings(step_cache=0.5, step_cache_by="extrapolation")
    skipping = wan.load(folder, device="cpu", dtype="fp32", num_inference_steps=8, denoise=settings)
    steps = ", ".join(str(step + 1) for step in sorted(skipping.extrapolated))
    assert len(skipping.extrapolated) == 3 and skipping.notes["step_cache"] == f"extrapolation: steps {steps}"


def test_a_folder_that_is_no_generator_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_calibration.main(["--generator", str(tmp_path / "none")]) == 2
    assert "neither 'demo' nor a folder" in capsys.readouterr().err
