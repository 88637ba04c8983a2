"""A captured training step against the plain one, and the fast layout of the autoencoder's training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.demo.training.schedule import make_optimizer
from engine.demo.training.step import TrainingStep
from engine.demo.training.train_vae import build_vae, fast_layout, vae_loss


def _losses(layer: nn.Module) -> object:
    return lambda x, y: {"loss": (layer(x) - y).square().mean(), "l1": (layer(x) - y).abs().mean()}


def test_a_step_is_the_optimizer_s_own() -> None:
    torch.manual_seed(0)
    layer, same = nn.Linear(3, 2), nn.Linear(3, 2)
    same.load_state_dict(layer.state_dict())
    x, y = torch.randn(5, 3), 10.0 * torch.randn(5, 2)
    step, optimizer = TrainingStep(_losses(layer), [layer], device="cpu"), make_optimizer([same])  # type: ignore[arg-type]
    step.set_rate(0.5, 99, 0.0)
    told = step(x, y)
    loss = (same(x) - y).square().mean()
    assert told["loss"].item() == pytest.approx(loss.item()) and not told["l1"].requires_grad
    loss.backward()
    nn.utils.clip_grad_norm_(same.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.25
    optimizer.step()
    for mine, other in zip(layer.parameters(), same.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.gpu
def test_on_a_gpu_the_captured_step_learns_and_reads_rate_and_batch() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4).cuda()
    x = torch.randn(64, 8, device="cuda")
    y = torch.randn(64, 4, device="cuda")
    step = TrainingStep(_losses(layer), [layer], device="cuda")  # type: ignore[arg-type]
    step.set_rate(0.05, 999, 0.0)
    first = step(x, y)["loss"].item()
    for _ in range(200):
        last = step(x, y)["loss"]
    assert last.item() < 0.9 * first
    step.set_rate(0.0, 999, 0.0)
    before = layer.weight.detach().clone()
    other = step(x, y + 100.0)["loss"].item()
    assert other > 1000.0, "the batch given is the batch used"
    assert torch.equal(before, layer.weight), "a rate of 0 changes nothing"


def test_the_fast_layout_computes_the_same_loss() -> None:
    torch.manual_seed(0)
    vae, pixels = build_vae(), torch.rand(1, 3, 5, 32, 32) * 2 - 1
    plain, fast = [], []
    for enabled, found in ((False, plain), (True, fast)):
        with fast_layout(vae, enabled=enabled):
            torch.manual_seed(1)
            loss = vae_loss(vae, pixels, decoder_only=False)[0]
            loss.backward()
        found += [loss.item(), vae.encoder.conv_in.weight.grad.norm().item()]
        vae.zero_grad()
    assert fast == pytest.approx(plain, rel=1e-4)
    assert "forward" not in vars(vae.encoder.norm_out)
