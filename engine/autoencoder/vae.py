"""The Wan autoencoder in large chunks, with the library's modules: pixels to latent moments and back.

The library walks a video one latent frame at a time to save memory. Its temporal convolutions are causal and
its feature cache carries exactly the frames they look back on, so any division after the first frame gives
the same numbers; an encoder or decoder with `joins_first_frame` takes that one along. Knows no prompts or
steps, keeps no state on the module, and lets gradients through.
B batch . Z latent channels . F latent frames . T = 4 (F - 1) + 1 pixel frames . H, W, h, w pixels and latent
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    patchify,
    unpatchify,
)
from torch import Tensor, nn

TEMPORAL_STRIDE = 4
"""Pixel frames per latent frame; the very first latent frame stands for a single pixel frame."""


def latent_frames_of(num_frames: int) -> int:
    """Latent frames of `num_frames` pixel frames, which must be 4k + 1 (the library drops a rest)."""
    assert num_frames % TEMPORAL_STRIDE == 1, f"{num_frames} pixel frames are not 4k + 1"
    return (num_frames - 1) // TEMPORAL_STRIDE + 1


def encode_moments(vae: AutoencoderKLWan, pixels: Tensor, chunk_latents: int = 0) -> Tensor:
    """Mean and log-variance of the latents, concatenated on channels, un-normalised.

    pixels [B, 3, T, H, W] in [-1, 1] in the dtype of `vae`, T = 4k + 1 -> [B, 2 Z, F, h, w]. After the first
    frame `chunk_latents` latent frames are made per pass; 0 takes all at once (fastest, most memory).
    """
    assert not vae.use_tiling, "tiling is the library's own path; call vae.encode"
    latent_frames = latent_frames_of(pixels.shape[2])
    if vae.config.patch_size is not None:
        pixels = patchify(pixels, patch_size=vae.config.patch_size)
    cache = _empty_cache(vae.encoder)
    moments = []
    for start, end in _chunks(vae.encoder, latent_frames, chunk_latents):
        frames = pixels[:, :, _first_pixel_frame(start) : _first_pixel_frame(end)]
        moments.append(vae.encoder(frames, feat_cache=cache, feat_idx=[0]))
    return _tensor(vae.quant_conv(torch.cat(moments, dim=2)))


def decode_pixels(
    vae: AutoencoderKLWan, latents: Tensor, chunk_latents: int = 0, *, clamp: bool = True
) -> Tensor:
    """Pixels of un-normalised latents [B, Z, F, h, w] in the dtype of `vae` -> [B, 3, T, H, W].

    Values lie in [-1, 1] if `clamp`; a reconstruction loss wants clamp=False, which keeps the gradient there.
    """
    return torch.cat(list(decode_in_chunks(vae, latents, chunk_latents, clamp=clamp)), dim=2)


def decode_in_chunks(
    vae: AutoencoderKLWan,
    latents: Tensor,
    chunk_latents: int = 0,
    *,
    clamp: bool = True,
    first_frame: int = 0,
) -> Iterator[Tensor]:
    """`decode_pixels` one chunk at a time: `num_chunks` tensors [B, 3, t, H, W] whose t add up to T.

    Pixel frames before `first_frame` are left out, so that t may be 0. A decoder with `takes_num_blocks` does
    of them only what the others look back on; those have the same bits.
    """
    assert not vae.use_tiling, "tiling is the library's own path; call vae.decode"
    hidden = vae.post_quant_conv(latents)
    cache = _empty_cache(vae.decoder)
    look_back = _look_back(vae.decoder) if getattr(vae.decoder, "takes_num_blocks", False) else None
    for start, end in _chunks(vae.decoder, latents.shape[2], chunk_latents):
        first, past = _first_pixel_frame(start), _first_pixel_frame(end)
        depth = {}
        if look_back is not None:
            depth = {"num_blocks": sum(past > first_frame - frames for frames in look_back)}
        pixels = vae.decoder(
            hidden[:, :, start:end], feat_cache=cache, feat_idx=[0], first_chunk=start == 0, **depth
        )
        if vae.config.patch_size is not None:
            pixels = unpatchify(pixels, patch_size=vae.config.patch_size)
        pixels = pixels[:, :, max(0, first_frame - first) :]
        yield _tensor(pixels.clamp(-1.0, 1.0) if clamp else pixels)


def decode_preview(vae: AutoencoderKLWan, latents: Tensor, frames: Sequence[int]) -> Tensor:
    """Single pictures of some latent frames, in one batch, for a quick look: [n, 3, H, W] in [-1, 1].

    latents [1, Z, F, h, w], un-normalised, in the dtype of `vae`. Each is decoded as the first frame of a
    video of its own: frame 0 is exact, the others lack what the decoder would take from the frames before.
    """
    assert latents.shape[0] == 1 and frames, (tuple(latents.shape), list(frames))
    chosen = torch.cat([latents[:, :, frame : frame + 1] for frame in frames])
    (pixels,) = decode_in_chunks(vae, chosen)
    return pixels[:, :, 0]


def num_chunks(vae: AutoencoderKLWan, latent_frames: int, chunk_latents: int) -> int:
    """How many pieces `decode_in_chunks` yields."""
    return len(_chunks(vae.decoder, latent_frames, chunk_latents))


def normalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Latents as the transformer sees them: about zero mean and unit variance per channel."""
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std


def denormalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """The inverse of `normalise`."""
    mean, std = _statistics(vae, latents)
    return latents * std + mean


def encode_mode(vae: AutoencoderKLWan, pixels: Tensor, chunk_latents: int = 0) -> Tensor:
    """Normalised latents [B, Z, F, h, w] at the mode of the posterior, which is its mean."""
    mean, _ = encode_moments(vae, pixels, chunk_latents).chunk(2, dim=1)
    return normalise(vae, mean)


def use_channels_last(vae: AutoencoderKLWan) -> int:
    """Store every convolution weight channels-last, the layout of the fast kernels; returns how many.

    Activations follow the weights; results change by rounding only.
    """
    convolutions = [module for module in vae.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d))]
    for module in convolutions:
        layout = torch.channels_last_3d if isinstance(module, nn.Conv3d) else torch.channels_last
        module.weight.data = module.weight.data.contiguous(memory_format=layout)
    assert convolutions, "no convolution in the autoencoder"
    return len(convolutions)


def _statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    # [1, Z, 1, 1, 1] in the dtype of the latents, as the library's pipelines do it.
    def per_channel(values: list[float]) -> Tensor:
        # made on the host and sent without waiting: a tensor made on the GPU from a list synchronizes
        channels = torch.tensor(values, dtype=like.dtype).view(1, -1, 1, 1, 1)
        return channels.to(like.device, non_blocking=True)

    return per_channel(vae.config.latents_mean), per_channel(vae.config.latents_std)


def _chunks(module: nn.Module, latent_frames: int, chunk_latents: int) -> list[tuple[int, int]]:
    # The library's resampling layers treat the first latent frame apart (it has no time to halve or double),
    # so it is alone in a pass. Taken along, its one pixel frame hardly adds to the peak.
    size = chunk_latents or max(latent_frames - 1, 1)
    first = 1 + size if getattr(module, "joins_first_frame", False) else 1
    return list(pairwise([0, *range(first, latent_frames, size), latent_frames]))


def _look_back(decoder: Any) -> list[float]:
    """Per upsampling block: on how many frames before a pixel frame its input is looked back on for that one.

    Infinite up to the last block that doubles time: the first frame is no past there, so it must see it.
    """
    num_doubling = 0
    for index, block in enumerate(decoder.up_blocks):
        if any(getattr(module, "time_conv", None) is not None for module in block.modules()):
            num_doubling = index + 1
    frames = decoder.conv_out.kernel_size[0] - 1
    found = []
    for block in reversed(decoder.up_blocks[num_doubling:]):
        convolutions = (module for module in block.modules() if isinstance(module, WanCausalConv3d))
        frames += sum(conv.kernel_size[0] - 1 for conv in convolutions)
        found.append(frames)
    return [math.inf] * num_doubling + found[::-1]


def _first_pixel_frame(latent_frame: int) -> int:
    return 0 if latent_frame == 0 else 1 + TEMPORAL_STRIDE * (latent_frame - 1)


def _empty_cache(module: nn.Module) -> list[Any]:
    # One slot per causal convolution, filled by the modules in call order (feat_idx counts along).
    return [None] * sum(isinstance(part, WanCausalConv3d) for part in module.modules())


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
