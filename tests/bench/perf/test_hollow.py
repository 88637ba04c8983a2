"""A folder without weights states every tensor, takes no room, and is planned like a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from one_clip import write_clip
from torch import nn

from bench.perf import hollow as folders
from bench.perf.hollow import hollow, make_critic, make_generator
from bench.perf.published import CRITICS, GENERATORS
from engine.build.needs import plan_run
from engine.machine.cards import CARDS
from engine.settings.config import load_config
from engine.weights.header import read_header

SMALL_ENCODER = {"d_ff": 64, "num_layers": 1, "vocab_size": 2000}


def test_a_hollow_file_has_headers_and_a_hole(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4096, 4096), nn.LayerNorm(8))
    path = tmp_path / "model.safetensors"
    hollow(path, model)
    found = read_header(path)
    assert {name: one.shape for name, one in found.tensors.items()} == {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters()
    }
    assert found.types == {"BF16": 4096 * 4096 + 4096 + 16}
    assert path.stat().st_size > 2 * 4096 * 4096 and path.stat().st_blocks * 512 < 2**20


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips"))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", 40),
        ("Wan-AI/Wan2.1-VACE-1.3B-diffusers", 50),
        ("nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers", 28),  # 4 in each of 7 chunks behind the prefix
        ("nvidia/Cosmos3-Edge", 50),
    ],
)
def test_each_layout_of_a_generator_is_planned(
    name: str, steps: int, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "TEXT_ENCODER", folders.TEXT_ENCODER | SMALL_ENCODER)
    make_generator(tmp_path / "generator", GENERATORS[name])
    make_critic(tmp_path / "critic", CRITICS["Qwen/Qwen3.5-9B"])
    given: dict[str, Any] = {
        "dataset": str(clips),
        "out": str(tmp_path / "run"),
        "generator.name": str(tmp_path / "generator"),
        "critic.name": str(tmp_path / "critic"),
        "dtype": "bf16",
    }
    needs = plan_run(load_config(None, given), timed=False, card=CARDS["H200"])
    assert needs.num_steps == steps and not needs.refused
    assert needs.memory.required_bytes > 19e9  # of the critic alone
