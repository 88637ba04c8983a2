"""How a prefix enters a Wan model: behind one protocol, so that whoever runs a take knows no variant.

- clean latents at timestep 0 in front of the noisy ones (Wan2.2-TI2V, and the bundled model);
- channels beside the noisy ones: a mask and the latents of the prefix, grey where there is none (I2V-A14B);
- channels of a control network: what stays, what is made anew, and a mask (VACE).

In the last two the prefix is made anew with the take, and cut off. Runs the autoencoder, and no transformer.
Z latent channels . P pixel frames of the prefix . K of its latent frames . F latent frames in all
T = 4 (F - 1) + 1 pixel frames in all . H, W, h, w pixels and latent pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.autoencoder.memory import padded, total_frames
from engine.autoencoder.vae import TEMPORAL_STRIDE, encode_mode, latent_frames_of
from engine.denoise.sampler import ChannelSampler, FlowSampler, PrefixSampler, Schedule
from engine.types import VideoSpec


class Conditioning(Protocol):
    """What a variant makes of a prefix, and how its latents are sampled with that."""

    @property
    def clean_prefix(self) -> bool:
        """Whether the model sees clean latents of the prefix at timestep 0."""
        ...

    def encoded_frames(self, spec: VideoSpec) -> int:
        """Pixel frames that the autoencoder reads for one prefix."""
        ...

    def num_channels(self, vae_config: Any) -> int:
        """Of latents beside the noisy ones."""
        ...

    def encode(self, vae: Any, prefix: Tensor, spec: VideoSpec, chunk_latents: int) -> Tensor:
        """Of the pixels [1, 3, P, H, W] in [-1, 1], P = 4k + 1, in the dtype of `vae`, float32 latents: the
        same for all takes of a prefix."""
        ...

    def sampler(self, schedule: Schedule, noise: Tensor, encoded: Tensor, *, patch_px: int) -> FlowSampler:
        """Over float32 noise [1, Z, F, h, w] and what `encode` made."""
        ...


@dataclass(frozen=True, slots=True)
class CleanPrefix:
    """Clean latents [1, Z, K, h, w] at timestep 0; the rest is denoised behind them."""

    clean_prefix = True

    def encoded_frames(self, spec: VideoSpec) -> int:
        return padded(spec.prefix_frames)

    def num_channels(self, vae_config: Any) -> int:
        return 0

    def encode(self, vae: Any, prefix: Tensor, spec: VideoSpec, chunk_latents: int) -> Tensor:
        return encode_mode(vae, prefix, chunk_latents).float()

    def sampler(self, schedule: Schedule, noise: Tensor, encoded: Tensor, *, patch_px: int) -> FlowSampler:
        return PrefixSampler(schedule, noise, encoded, patch_px=patch_px)


@dataclass(frozen=True, slots=True)
class PrefixChannels:
    """[1, 4 + Z, F, h, w]: for each of the four pixel frames of a latent frame whether it is given, and the
    latents of the prefix with grey behind it. As `WanImageToVideoPipeline` of diffusers has them for one
    image; for more frames the mask says so."""

    clean_prefix = False

    def encoded_frames(self, spec: VideoSpec) -> int:
        return total_frames(spec)

    def num_channels(self, vae_config: Any) -> int:
        return int(TEMPORAL_STRIDE + vae_config.z_dim)

    def encode(self, vae: Any, prefix: Tensor, spec: VideoSpec, chunk_latents: int) -> Tensor:
        latents = encode_mode(vae, _with_grey(prefix, spec), chunk_latents).float()
        mask = torch.zeros_like(latents[:, :TEMPORAL_STRIDE])
        mask[:, :, : latent_frames_of(prefix.shape[2])] = 1.0  # the first latent frame is one pixel frame
        return torch.cat([mask, latents], dim=1)

    def sampler(self, schedule: Schedule, noise: Tensor, encoded: Tensor, *, patch_px: int) -> FlowSampler:
        return ChannelSampler(schedule, noise, encoded, patch_px=patch_px)


@dataclass(frozen=True, slots=True)
class VaceControl:
    """[1, 2 Z + 64, F, h, w]: latents of what stays and of what is made anew, and the mask of the pixels that
    a latent pixel stands for (VACE, arXiv 2503.07598), as `WanVACEPipeline` of diffusers makes them."""

    clean_prefix = False

    def encoded_frames(self, spec: VideoSpec) -> int:
        return total_frames(spec)

    def num_channels(self, vae_config: Any) -> int:
        return int(2 * vae_config.z_dim + vae_config.scale_factor_spatial**2)

    def encode(self, vae: Any, prefix: Tensor, spec: VideoSpec, chunk_latents: int) -> Tensor:
        grey = torch.zeros_like(prefix[:, :, :1])
        kept = encode_mode(vae, _with_grey(prefix, spec), chunk_latents).float()
        anew = encode_mode(vae, _with_grey(grey, spec), chunk_latents).float()  # all of it is grey
        frames = torch.ones(1, 1, total_frames(spec), device=prefix.device)
        frames[:, :, : prefix.shape[2]] = 0.0
        chosen = nn.functional.interpolate(frames, size=kept.shape[2], mode="nearest-exact")
        stride = vae.config.scale_factor_spatial
        mask = chosen[:, :, :, None, None].expand(1, stride**2, -1, *kept.shape[3:])
        return torch.cat([kept, anew, mask], dim=1)

    def sampler(self, schedule: Schedule, noise: Tensor, encoded: Tensor, *, patch_px: int) -> FlowSampler:
        return ChannelSampler(schedule, noise, encoded, patch_px=patch_px)


def _with_grey(prefix: Tensor, spec: VideoSpec) -> Tensor:
    """[1, 3, T, H, W]: the prefix, and grey for what is to come."""
    return nn.functional.pad(prefix, (0, 0, 0, 0, 0, total_frames(spec) - prefix.shape[2]))
