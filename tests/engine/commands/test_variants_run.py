"""Each variant of the Wan family through the real command: planned, run, stored and reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import script_the_critic
from tiny_vlm import save_tiny_vlm
from tiny_wan_variants import build_anyflow, build_clip, build_i2v, build_vace
from typer.testing import CliRunner, Result

from engine import cli
from engine.video.files import probe

VARIANTS: dict[str, tuple[Callable[..., Path], list[str], int]] = {
    # folder, options, denoise steps of a take
    "i2v": (build_i2v, ["--preset", "fast", "--set", "memory.experts=streamed"], 4),
    "vace": (build_vace, ["--preset", "exact"], 4),
    "anyflow": (build_anyflow, ["--preset", "fastest"], 8),
}


def retake(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, words)])


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("models") / "critic", sidecar="{}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_runs_from_clip_to_report(
    tmp_path: Path, critic: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    script_the_critic(monkeypatch)
    monkeypatch.setenv("RETAKE_THREADS", "1")
    build, options, num_steps = VARIANTS[variant]
    generator = build(tmp_path / "generator", clip_prompts=True)
    clip = build_clip(tmp_path / "clips").prefix.path
    clip.with_suffix(".txt").write_text("A red box slides.")
    models = ["--generator", generator, "--critic", critic, "--device", "cpu", "--dtype", "fp32", *options]
    plan = retake("plan", tmp_path / "clips", *models, "--no-time", "--json", "-")
    assert json.loads(plan.stdout)["denoise_steps_of_a_take"] == num_steps, plan.stderr
    out = tmp_path / "run"
    done = retake("run", tmp_path / "clips", *models, "--loops", 0, "--out", out)
    assert done.exit_code == 0, done.output
    chosen = probe(next((out / "chosen").glob("*.mp4")))
    told = json.loads((generator / "retake.json").read_text())["num_frames"]
    assert (chosen.width, chosen.height, chosen.fps, chosen.num_frames) == (32, 32, 16.0, told)
    assert (out / "report.html").is_file()
