"""Training in stages, at tiny sizes: a stage goes on where the last one ended, a state becomes a model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from engine.demo.scenes.seeds import TRAINING_PARTS
from engine.demo.training import train_generator
from engine.demo.training.checkpoint import read_progress
from engine.demo.training.train_dit import load_modules
from engine.errors import ModelError
from engine.generators.wan.own_prefix import OwnPrefix

TINY = "--size 32 --clips 10 --workers 1 --check-per-kind 0 --world wide"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train_generator", *map(str, arguments)])
    train_generator.main()


@pytest.mark.slow
def test_the_generator_in_two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, state = tmp_path / "G", tmp_path / "S"
    tiny = [*TINY.split(), "--out", out]
    run(monkeypatch, *tiny, "--stage", "vae", "--vae-seconds", 1, "--vae-batch", 2)
    stage = [*tiny, "--stage", "dit", "--dit-seconds", 1, "--total-seconds", 2, "--dit-batch", 2]
    stage += ["--state", state, "--prefix-attention", "own", "--broken-share", 0.3]
    run(monkeypatch, *stage)
    first = read_progress(state)
    run(monkeypatch, *stage)
    second = read_progress(state)
    assert first is not None and second is not None
    assert (first.stages, second.stages) == (1, 2) and second.seconds == 2.0
    assert second.next_seed > first.next_seed > TRAINING_PARTS["generator"].first
    assert (out / "curves" / "dit1.json").is_file() and (out / "curves" / "dit2.json").is_file()
    assert max(path.stat().st_size for path in state.iterdir() if path.is_file()) < 16 << 20

    assembled = tmp_path / "A"
    run(monkeypatch, "--out", assembled, "--stage", "assemble", "--state", state, "--size", 32)
    one, other = (load_modules(folder) for folder in (out, assembled))
    for module, same in zip(one[:2], other[:2], strict=True):
        for a, b in zip(module.parameters(), same.parameters(), strict=True):
            assert torch.allclose(a, b, atol=2e-3)
    assert isinstance(other[0].blocks[0].attn1.processor, OwnPrefix)
    with pytest.raises(ModelError, match=r"began with broken_share '0\.3'"):
        run(monkeypatch, *[0.0 if value == 0.3 else value for value in stage])
