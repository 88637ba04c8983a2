"""Trains the demo's video autoencoder (AutoencoderKLWan, Wan2.2 layout: 4 x 16 x 16, 32 channels) on scenes.

Run by `train_generator`. Loss: absolute error weighted towards what moves, the same for
spatial and temporal differences, and a faint KL term (Kingma and Welling 2014) that bounds the latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from torch.nn import functional

from engine.autoencoder.vae import decode_pixels, encode_moments, use_channels_last
from engine.demo.training.clips import ClipFactory
from engine.demo.training.schedule import Average, Budget, Curve
from engine.demo.training.step import TrainingStep
from engine.generators.wan.wan22_vae import WAN22_LAYOUT

LATENT_CHANNELS = 32
CROP_FRAMES = 17  # 5 latent frames
KL_WEIGHT = 1e-4


def build_vae() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=16, decoder_base_dim=24, z_dim=LATENT_CHANNELS, dim_mult=[1, 2, 4, 4], num_res_blocks=1,
        latents_mean=[0.0] * LATENT_CHANNELS, latents_std=[1.0] * LATENT_CHANNELS, **WAN22_LAYOUT,
    )  # fmt: skip


def to_pixels(frames: torch.Tensor) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] to [-1, 1] float [B, 3, T, H, W]."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def vae_loss(
    vae: Any, pixels: torch.Tensor, *, decoder_only: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Total loss, plain L1, and KL of one batch of pixels [B, 3, T, H, W]."""
    with torch.set_grad_enabled(not decoder_only):
        moments = encode_moments(vae, pixels)
    mean, logvar = moments.float().chunk(2, dim=1)
    logvar = logvar.clamp(-20.0, 10.0)
    latents = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    recon = decode_pixels(vae, latents, clamp=False).float()
    error = (recon - pixels).abs()
    moving = (pixels - pixels.mean(dim=2, keepdim=True)).abs().amax(dim=1, keepdim=True)
    weighted = (error * (1.0 + 6.0 * (4.0 * moving).clamp(max=1.0))).mean()
    edges = sum((recon.diff(dim=d) - pixels.diff(dim=d)).abs().mean() for d in (2, 3, 4))
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    return weighted + edges + KL_WEIGHT * kl, error.mean(), kl


def _channels_last_norm(module: WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
    """x [B, C, ...] over the root mean square of its channels, times gamma, in the dtype of x.

    Under autocast the library's widens all that follows to fp32, up to the next convolution. Gamma stands
    apart, since its gradient is a sum over millions of rows of a few channels.
    """
    normal = functional.rms_norm(x.movedim(1, -1), (x.shape[1],), eps=1e-20).movedim(-1, 1)
    return torch.as_tensor(normal.to(x.dtype) * module.gamma.to(x.dtype))


@contextmanager
def fast_layout(vae: Any, *, enabled: bool) -> Iterator[None]:
    """Weights and norms channels-last: on a GPU about half of the kernels' time of a training step."""
    if not enabled:
        yield
        return
    use_channels_last(vae)
    norms = [module for module in vae.modules() if isinstance(module, WanRMS_norm)]
    for module in norms:
        assert module.channel_first and not isinstance(module.bias, torch.Tensor)
        module.forward = partial(_channels_last_norm, module)
    try:
        yield
    finally:
        for module in norms:
            del module.forward


class FrameBank:
    """Clips kept on the training device as uint8, filled from the factory without waiting for it."""

    def __init__(
        self, factory: ClipFactory, capacity: int, frames_shape: tuple[int, ...], device: str
    ) -> None:
        self.factory, self.count = factory, 0
        self.frames = torch.empty(capacity, *frames_shape, dtype=torch.uint8, device=device)

    def refill(self, wait: bool = False) -> None:
        while self.count < len(self.frames) and (wait or self.factory.ready()):
            wait = False
            block = self.factory.take()
            size = min(len(block.frames), len(self.frames) - self.count)
            self.frames[self.count : self.count + size] = block.frames[:size].to(self.frames.device)
            self.factory.release(block)
            self.count += size

    def crops(self, batch: int, num_frames: int) -> torch.Tensor:
        """Random uint8 crops in time, half of them mirrored: [B, num_frames, H, W, 3]."""
        device = self.frames.device
        clips = torch.randint(self.count, (batch, 1), device=device)
        starts = torch.randint(self.frames.shape[1] - num_frames + 1, (batch, 1), device=device)
        crop = self.frames[clips, starts + torch.arange(num_frames, device=device)]
        return torch.where(torch.rand(batch, 1, 1, 1, 1, device=device) < 0.5, crop.flip(3), crop)


def train_vae(
    factory: ClipFactory, out: Path, *, seconds: float, batch: int, capacity: int, device: str, size_px: int,
    start: Path | None = None, decoder_only: bool = False,
) -> Any:  # fmt: skip
    """Trains for `seconds`, saves fp16 to OUT/vae, returns the module (fp32).

    `start` continues from a saved folder. `decoder_only` keeps the latents as they are, so that a transformer
    trained on them stays valid; otherwise latents_mean and latents_std are measured anew.
    """
    vae = (build_vae() if start is None else load_vae(start)).to(device)
    trained = [vae.decoder, vae.post_quant_conv] if decoder_only else [vae]
    bank = FrameBank(factory, capacity, (64, size_px, size_px, 3), device)
    bank.refill(wait=True)

    def losses(frames: torch.Tensor) -> dict[str, torch.Tensor]:
        loss, plain, kl = vae_loss(vae, to_pixels(frames), decoder_only=decoder_only)
        return {"loss": loss, "l1": plain, "kl": kl}

    curve, budget, step = Curve("vae", 50 if device == "cuda" else 2), Budget(seconds), 0
    with fast_layout(vae, enabled=device == "cuda"):
        # made here, so that moments and averages have the layout of the weights
        update, average = TrainingStep(losses, trained, device=device, weight_decay=0.0), Average(vae, 0.997)
        while not budget.over:
            bank.refill()
            update.set_rate(1.5e-3 if start is None else 1e-3, step, budget.fraction)
            curve.add(step, update(bank.crops(batch, CROP_FRAMES)))
            average.update()
            step += 1
            if step == 1:  # compilation and capture are over: the budget counts training
                budget.start()
    average.apply()
    if not decoder_only:
        measure_latents(vae, bank)
    psnr = reconstruction_psnr(vae, bank.frames[: min(bank.count, 32)])
    print(f"vae: {step} steps of {batch}, {bank.count} clips, PSNR {psnr:.2f} dB", flush=True)
    facts = {"steps": step, "batch": batch, "clips": bank.count, "psnr_db": psnr, "seconds": seconds}
    curve.save(out / "curves", facts)
    save_half(vae, out / "vae")
    return vae


@torch.no_grad()
def measure_latents(vae: Any, bank: FrameBank) -> None:
    """Writes the per-channel mean and standard deviation of the latents into the config."""
    sums: list[torch.Tensor] = []
    for start in range(0, min(bank.count, 512), 16):
        frames = bank.frames[start : start + 16]
        padded = torch.cat([frames[:, :1], frames], dim=1)
        with torch.autocast(padded.device.type, torch.bfloat16, enabled=padded.is_cuda):
            moments = encode_moments(vae, to_pixels(padded))
        sums.append(moments.float()[:, :LATENT_CHANNELS].transpose(0, 1).flatten(1))
    latents = torch.cat(sums, dim=1)
    vae.register_to_config(
        latents_mean=latents.mean(dim=1).tolist(), latents_std=latents.std(dim=1).clamp(min=1e-3).tolist()
    )


@torch.no_grad()
def reconstruction_psnr(vae: Any, frames: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the autoencoder on whole clips uint8 [B, 64, H, W, 3]."""
    errors = []
    for start in range(0, len(frames), 8):
        clip = frames[start : start + 8]
        pixels = to_pixels(torch.cat([clip[:, :1], clip], dim=1))
        mean = encode_moments(vae, pixels).chunk(2, dim=1)[0]
        recon = decode_pixels(vae, mean)
        errors.append(functional.mse_loss(recon / 2, pixels / 2).item())
    return float(-10 * np.log10(np.mean(errors)))


def load_vae(folder: Path) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32)


def save_half(module: Any, folder: Path) -> None:
    """A copy of the module in fp16 safetensors; the module itself keeps its dtype."""
    import copy

    half = copy.deepcopy(module).half()
    for parameter in half.parameters():  # may be channels-last, which safetensors refuses
        parameter.data = parameter.data.contiguous()
    half.save_pretrained(folder)
