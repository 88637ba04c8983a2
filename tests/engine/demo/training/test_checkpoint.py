"""An unfinished training: small files, the same weights again, and refusals of what does not belong to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from engine.demo.training import checkpoint
from engine.demo.training.checkpoint import PART_BYTES, Progress, Trained, read_progress, require_settings
from engine.demo.training.schedule import Average
from engine.errors import ModelError

PROGRESS = Progress(seconds=8.0, steps=30, stages=2, next_seed=640, settings={"world": "wide"})


def trained(width: int = 8, seed: int = 0) -> Trained:
    torch.manual_seed(seed)
    module = nn.Linear(width, 4)
    average = Average(module, 0.9)
    with torch.no_grad():
        module.weight.add_(1.0)
    return Trained({"layer": module}, {"layer": average})


def test_a_state_reads_back_in_half_precision(tmp_path: Path) -> None:
    one, other = trained(), trained(seed=1)
    checkpoint.save(tmp_path, one, PROGRESS)
    checkpoint.load(tmp_path, other)
    assert read_progress(tmp_path) == PROGRESS and read_progress(tmp_path / "none") is None
    for key, tensor in one.tensors().items():
        assert torch.allclose(other.tensors()[key], tensor, rtol=1e-3)
    weight, shadow = (other.tensors()[key] for key in ("layer.weight", "average/layer.weight"))
    assert torch.allclose(weight - shadow, torch.ones(4, 8), atol=2e-3)
    assert other.averages["layer"].count == PROGRESS.steps


def test_parts_are_small_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PART_BYTES < 16 << 20
    monkeypatch.setattr(checkpoint, "PART_BYTES", 100)
    checkpoint.save(tmp_path, trained(), PROGRESS)
    before = sorted(tmp_path.glob("*.part"))
    assert len(before) > 2 and max(path.stat().st_size for path in before) == 100
    checkpoint.save(tmp_path, trained(seed=3), PROGRESS)
    after = sorted(tmp_path.glob("*.part"))
    assert len(after) == len(before) and before != after
    checkpoint.load(tmp_path, trained())


def test_a_damaged_or_missing_part_is_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, trained(), PROGRESS)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ModelError, match=f"{part.name} is damaged"):
        checkpoint.load(tmp_path, trained())
    part.unlink()
    with pytest.raises(ModelError, match=f"{part.name} does not exist"):
        checkpoint.load(tmp_path, trained())
    (tmp_path / checkpoint.RECORD).write_text("{}")
    with pytest.raises(ModelError, match="damaged"):
        read_progress(tmp_path)


def test_other_modules_and_other_settings_are_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, trained(), PROGRESS)
    with pytest.raises(ModelError, match="other modules"):
        checkpoint.load(tmp_path, trained(width=9))
    require_settings(None, {"world": "plain"})
    require_settings(PROGRESS, {"world": "wide"})
    with pytest.raises(ModelError, match="began with world 'wide', not 'plain'"):
        require_settings(PROGRESS, {"world": "plain"})


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, trained(), PROGRESS)
    broken = trained()
    with torch.no_grad():
        broken.modules["layer"].get_parameter("bias").fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        checkpoint.save(tmp_path, broken, PROGRESS)
    checkpoint.load(tmp_path, trained())
