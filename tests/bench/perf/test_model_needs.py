"""A hollow weight file states every tensor and takes no room."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bench.perf.model_needs import CRITICS, GENERATOR, hollow
from engine.build.hub import HOSTED
from engine.weights.header import read_header


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


def test_what_is_planned_can_be_had_by_its_name() -> None:
    assert {GENERATOR, *CRITICS} <= HOSTED.keys()
