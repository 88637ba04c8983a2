"""The critic's rows as captured steps that share an optimizer. What they compute: test_schedule.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.critics.qwen_vl.preprocess import PatchGeometry
from engine.demo.training.critic_losses import CriticLosses
from engine.demo.training.critic_model import (
    GROUP_PATCHES,
    build_model,
    build_tokenizer,
    fit_for_training,
    save_critic,
)
from engine.demo.training.schedule import make_optimizer, set_learning_rate
from engine.demo.training.step import TrainingStep
from engine.demo.training.train_critic import load_start, tokenizer_texts


def _batch(model: Any, frames: int, length: int, device: str) -> dict[str, torch.Tensor]:
    """Rows with the tokens of each pair of frames behind a word, and with a reply at the end."""
    torch.manual_seed(frames)
    tokens = GROUP_PATCHES // 4
    ids = torch.randint(10, 200, (4, length))
    for group in range(frames // 2):
        first = 10 + group * (tokens + 1)
        ids[:, first : first + tokens] = model.config.video_token_id
    labels = torch.where(torch.arange(length) >= length - 8, ids, -100)
    batch = {
        "ids": ids,
        "labels": labels,
        "frames": torch.randint(0, 256, (4, frames, 128, 128, 3), dtype=torch.uint8),
        "windows": torch.zeros(4, frames // 2, 3, dtype=torch.long),
    }
    return {name: value.to(device) for name, value in batch.items()}


def _losses_and_batches() -> tuple[CriticLosses, list[dict[str, torch.Tensor]]]:
    tokenizer = build_tokenizer(tokenizer_texts(26))
    torch.manual_seed(0)
    model = build_model(tokenizer, hidden=128, layers=2, vision_hidden=64)
    fit_for_training(model, GROUP_PATCHES)
    losses = CriticLosses(model, PatchGeometry.from_config(model.config, frame_px=128))
    return losses, [_batch(model, frames, length, "cpu") for frames, length in ((12, 160), (28, 300))]


def test_a_row_is_learned_on_any_device() -> None:
    """The same rows as below, without a graph: what is learned there can be learned."""
    losses, batches = _losses_and_batches()
    optimizer = make_optimizer([losses])
    step = TrainingStep(losses.reply_losses, [losses], device="cpu", optimizer=optimizer)
    set_learning_rate(optimizer, 1e-3, 999, 0.0)
    inputs = losses.inputs(batches[0])
    first = step(*inputs)["reply"].item()
    for _ in range(5):
        last = step(*inputs)["reply"]
    assert last.item() < first


@pytest.mark.gpu
def test_on_a_gpu_two_captured_steps_learn_with_one_optimizer() -> None:
    on_host, batches = _losses_and_batches()
    with torch.no_grad():
        wanted = [on_host.reply_losses(*on_host.inputs(batch))["reply"].item() for batch in batches]
    losses = CriticLosses(on_host.model, on_host.geometry).cuda()  # it keeps places where it found them
    optimizer = make_optimizer([losses])
    steps = [TrainingStep(losses.reply_losses, [losses], device="cuda", optimizer=optimizer) for _ in batches]
    shown = [losses.inputs({n: v.cuda() for n, v in batch.items()}) for batch in batches]
    set_learning_rate(optimizer, 0.0, 999, 0.0)
    found = [step(*inputs)["reply"].item() for step, inputs in zip(steps, shown, strict=True)]
    assert found == pytest.approx(wanted, rel=0.02), "bf16 beside fp32"
    set_learning_rate(optimizer, 1e-3, 999, 0.0)
    for _ in range(60):
        last = [step(*inputs)["reply"].clone() for step, inputs in zip(steps, shown, strict=True)]
    assert all(now.item() < 0.7 * then for now, then in zip(last, found, strict=True))


def test_a_saved_critic_is_the_librarys_again(tmp_path: Any) -> None:
    tokenizer = build_tokenizer(tokenizer_texts(26))
    model = build_model(tokenizer, hidden=128, layers=2, vision_hidden=64)
    fit_for_training(model, GROUP_PATCHES)
    save_critic(model, tokenizer, tmp_path, 128)
    _, loaded = load_start(tmp_path)
    assert "forward" not in vars(loaded.model.visual.patch_embed)
    pixels = torch.randn(2 * GROUP_PATCHES, 1536)
    grid = torch.tensor([[2, 8, 8]])
    with torch.no_grad():
        plain = loaded.model.visual(pixels, grid).pooler_output
        fit_for_training(loaded, GROUP_PATCHES)
        fast = loaded.model.visual(pixels, grid).pooler_output
    assert torch.allclose(plain, fast, atol=1e-4)
