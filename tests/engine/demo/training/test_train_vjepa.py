"""Training of the bundled V-JEPA: parts against the library's, masks, check, and a run of seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.demo.scenes.base import HELD_OUT_SEED0, NUM_FRAMES, SWITCH
from engine.demo.training import train_vjepa
from engine.demo.training.train_vae import FrameBank
from engine.demo.training.train_vjepa import (
    JUMP_FRAME,
    VIOLATIONS,
    Trainer,
    auc,
    block_ids,
    encode,
    planted,
    predict,
)
from engine.selectors import vjepa
from engine.types import SelectorSettings

torch.set_num_threads(1)

SIZE_PX = 64
DEPTH, SIDE = 8, 4  # tokens in time, and along a side


class StoppedFactory:
    """Stands in for the renderers: the bank is filled by hand."""

    def ready(self) -> bool:
        return False


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    torch.manual_seed(0)
    bank = FrameBank(StoppedFactory(), 2, (NUM_FRAMES, SIZE_PX, SIZE_PX, 3), "cpu")  # type: ignore[arg-type]
    bank.frames.random_(0, 256)
    bank.count = 2
    return Trainer(bank, size_px=SIZE_PX, batch=2, device="cpu", compiled=False)


def test_parts_equal_the_library_s(trainer: Trainer) -> None:
    model, pixels = trainer.model, trainer.pixels()
    with torch.no_grad():
        for frames in (8, 16):
            wanted = model.encoder(pixel_values_videos=pixels[:, :frames]).last_hidden_state
            torch.testing.assert_close(
                encode(model.encoder, pixels[:, :frames]), wanted, atol=1e-4, rtol=1e-4
            )
        ids = torch.arange(DEPTH * SIDE**2).expand(2, -1)
        known, asked = ids[:, :64], ids[:, 64:]
        library = model.predictor(encoder_hidden_states=wanted, context_mask=[known], target_mask=[asked])
        ours = predict(model.predictor, wanted[:, :64], known, asked)
        torch.testing.assert_close(ours, library.last_hidden_state, atol=1e-5, rtol=1e-5)


def test_masked_encoder_sees_its_tokens_only(trainer: Trainer) -> None:
    """All tokens in any order give the same features; a token left out changes nothing for the others."""
    pixels, encoder = trainer.pixels(), trainer.model.encoder
    order = torch.stack([torch.randperm(DEPTH * SIDE**2) for _ in range(2)])
    with torch.no_grad():
        plain = encode(encoder, pixels)
        picked = plain.gather(1, order[..., None].expand(-1, -1, plain.shape[-1]))
        torch.testing.assert_close(encode(encoder, pixels, order), picked, atol=1e-4, rtol=1e-4)
        changed = pixels.clone()
        changed[:, 8:] = 0.0
        known = torch.arange(4 * SIDE**2).expand(2, -1)  # of the first 8 frames
        torch.testing.assert_close(encode(encoder, changed, known), encode(encoder, pixels, known))


def test_block_masks_part_all_tokens_and_half_are_tubes() -> None:
    known, asked = block_ids(8, DEPTH, SIDE, "cpu")
    assert known.shape == (8, 4 * DEPTH) and asked.shape == (8, 12 * DEPTH)
    everything = torch.arange(DEPTH * SIDE**2).expand(8, -1)
    assert torch.equal(torch.cat([known, asked], dim=1).sort(dim=1).values, everything)
    places = [len(set((row % SIDE**2).tolist())) for row in known]
    assert places[::2] == [4] * 4 and min(places[1::2]) > 4
    again, _ = block_ids(8, DEPTH, SIDE, "cpu")
    assert not torch.equal(known, again)


def test_learning_lowers_the_loss_and_moves_the_target(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter([*np.linspace(0.0, 0.9, 10), 1.0])

    class Steps:
        """A budget of ten steps."""

        def __init__(self, seconds: float) -> None:
            self.fraction = 0.0

        @property
        def over(self) -> bool:
            self.fraction = float(next(steps))
            return self.fraction >= 1.0

    monkeypatch.setattr(train_vjepa, "Budget", Steps)
    before = [p.clone() for p in trainer.target.parameters()]
    assert trainer.learn(1.0) == 10
    rows = trainer.curves[0].rows
    assert rows[-1]["future"] < rows[0]["future"] and rows[-1]["block"] < rows[0]["block"]
    assert all(row["std"] > 0.05 for row in rows)
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.target.parameters(), strict=True))
    assert all(p.grad is None for p in trainer.target.parameters())
    steps = iter([*np.linspace(0.0, 0.9, 10), 1.0])
    frozen = [p.clone() for p in trainer.target.parameters()]
    assert trainer.settle(1.0) == 10
    for kept, target, encoder in zip(
        frozen, trainer.target.parameters(), trainer.model.encoder.parameters(), strict=True
    ):
        assert torch.equal(kept, target) and torch.equal(kept, encoder)


def test_planted_violations_keep_the_prefix() -> None:
    rng = np.random.default_rng(0)
    frames = np.full((NUM_FRAMES, 20, 20, 3), 90, np.uint8)
    for index in range(NUM_FRAMES):
        frames[index, 4:8, index % 10 : index % 10 + 2] = 255  # moves, so that the median is the backdrop
    other = rng.integers(0, 256, frames.shape).astype(np.uint8)
    clips = planted(frames, other)
    assert tuple(clips) == VIOLATIONS
    for changed in clips.values():
        assert changed.shape == frames.shape and changed.dtype == np.uint8
        np.testing.assert_array_equal(changed[:SWITCH], frames[:SWITCH])
        assert not np.array_equal(changed, frames)
    np.testing.assert_array_equal(clips["backwards"][SWITCH], frames[-1])
    np.testing.assert_array_equal(clips["frozen"][-1], frames[SWITCH - 1])
    np.testing.assert_array_equal(clips["other scene"][-1], other[-1])
    jumped = clips["jumped"]
    np.testing.assert_array_equal(jumped[:JUMP_FRAME], frames[:JUMP_FRAME])
    np.testing.assert_array_equal(jumped[JUMP_FRAME], np.roll(frames[JUMP_FRAME], 4, axis=1))
    assert (jumped[JUMP_FRAME, 0] == 90).all()


def test_auc_by_hand() -> None:
    assert auc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert auc(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0.5
    assert auc(np.array([1.0, 2.0]), np.array([0.0, 1.5])) == 0.25


def test_check_scenes_are_held_out() -> None:
    assert train_vjepa.CHECK_SEED >= HELD_OUT_SEED0 > train_vjepa.FIRST_SEED


def test_a_run_of_seconds_gives_a_folder_that_the_selector_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_vjepa, "CHECK_SECONDS", 0.0)
    options = ["--seconds", "2", "--batch", "2", "--clips", "2", "--workers", "1", "--size", f"{SIZE_PX}"]
    monkeypatch.setattr(sys, "argv", ["train_vjepa", "--out", f"{tmp_path}", *options, "--check-scenes", "1"])
    train_vjepa.main()
    facts = json.loads((tmp_path / "curves" / "vjepa.json").read_text())["facts"]
    assert facts["learn_steps"] >= 1 and facts["settle_steps"] >= 1 and facts["clips"] == 2
    assert facts["check"]["auc"].keys() == facts["check"]["paired"].keys() == set(VIOLATIONS)
    assert 2.5e6 < facts["parameters"] < 3.25e6
    assert (tmp_path / "vjepa" / "model.safetensors").stat().st_size <= 6.5e6
    selector = vjepa.build(SelectorSettings(vjepa=tmp_path / "vjepa"))
    assert selector.fps == 8.0 and selector.model.config.crop_size == SIZE_PX  # type: ignore[attr-defined]
