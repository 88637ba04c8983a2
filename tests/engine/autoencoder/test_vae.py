"""The autoencoder in chunks against the library's own loops, and the quick look at single latent frames."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from tiny_wan import LATENT_CHANNELS, build_autoencoder
from torch import Tensor

from engine.autoencoder.vae import (
    decode_in_chunks,
    decode_pixels,
    decode_preview,
    denormalise,
    encode_mode,
    encode_moments,
    latent_frames_of,
    normalise,
    num_chunks,
    use_channels_last,
)
from engine.autoencoder.vae_fused import use_fused_vae

torch.set_num_threads(1)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "residual"])
def autoencoder(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return build_autoencoder(residual=request.param)


def random_pixels(num_frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, num_frames, 32, 48, generator=generator) * 2 - 1


def test_tiling_is_refused() -> None:
    """The library displaces tiles whose stride is no multiple of 8, without an error; ours are in time."""
    tiled = build_autoencoder(residual=False)
    tiled.enable_tiling(tile_sample_min_height=32, tile_sample_stride_height=20)
    with pytest.raises(AssertionError, match="tiling"):
        encode_mode(tiled, random_pixels(5))
    with pytest.raises(AssertionError, match="tiling"):
        decode_pixels(tiled, torch.zeros(1, LATENT_CHANNELS, 2, 4, 6))


@pytest.mark.parametrize("chunk_latents", [0, 1, 2, 3])
def test_large_chunks_equal_the_library(autoencoder: AutoencoderKLWan, chunk_latents: int) -> None:
    pixels = random_pixels(17)
    with torch.no_grad():
        expected = autoencoder.encode(pixels).latent_dist.parameters
        moments = encode_moments(autoencoder, pixels, chunk_latents)
        assert moments.shape[2] == latent_frames_of(17) == 5
        torch.testing.assert_close(moments, expected, atol=1e-5, rtol=0)
        latents = expected[:, :LATENT_CHANNELS] + torch.randn(expected[:, :LATENT_CHANNELS].shape)
        shown = autoencoder.decode(latents).sample
        torch.testing.assert_close(
            decode_pixels(autoencoder, latents, chunk_latents), shown, atol=1e-4, rtol=0
        )
        pieces = list(decode_in_chunks(autoencoder, latents, chunk_latents))
        assert len(pieces) == num_chunks(autoencoder, 5, chunk_latents)
        assert sum(piece.shape[2] for piece in pieces) == 17
    assert shown.std() > 0.01, "a constant picture would prove nothing"


def test_one_frame_is_one_latent(autoencoder: AutoencoderKLWan) -> None:
    with torch.no_grad():
        latents = encode_mode(autoencoder, random_pixels(1))
        pixels = decode_pixels(autoencoder, denormalise(autoencoder, latents))
        expected = autoencoder.decode(denormalise(autoencoder, latents)).sample
    assert latents.shape[2] == 1 and num_chunks(autoencoder, 1, 4) == 1
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)


def test_lengths_that_would_lose_frames_are_refused(autoencoder: AutoencoderKLWan) -> None:
    with pytest.raises(AssertionError, match="72 pixel frames are not 4k"):
        encode_moments(autoencoder, torch.zeros(1, 3, 72, 32, 32))


def test_autoencoder_is_differentiable_and_keeps_no_state(autoencoder: AutoencoderKLWan) -> None:
    pixels = random_pixels(9)[:1].requires_grad_()
    shown = decode_pixels(
        autoencoder, denormalise(autoencoder, encode_mode(autoencoder, pixels)), clamp=False
    )
    (shown - pixels).square().mean().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in autoencoder.parameters())
    autoencoder.zero_grad(set_to_none=True)
    assert not hasattr(autoencoder, "_feat_map") or all(slot is None for slot in autoencoder._feat_map)


def test_normalise_uses_the_statistics_of_the_config(autoencoder: AutoencoderKLWan) -> None:
    latents = torch.ones(1, LATENT_CHANNELS, 1, 2, 2)
    mean, std = autoencoder.config.latents_mean, autoencoder.config.latents_std
    expected = [(1 - m) / s for m, s in zip(mean, std, strict=True)]
    torch.testing.assert_close(normalise(autoencoder, latents)[0, :, 0, 0, 0], torch.tensor(expected))
    torch.testing.assert_close(denormalise(autoencoder, normalise(autoencoder, latents)), latents)


def test_channels_last_changes_only_the_layout() -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder()
    latents = torch.randn(1, LATENT_CHANNELS, 3, 4, 4)
    with torch.no_grad():
        before = decode_pixels(autoencoder, latents)
        assert use_channels_last(autoencoder) > 20
        torch.testing.assert_close(decode_pixels(autoencoder, latents), before, atol=1e-5, rtol=0)
    assert autoencoder.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("fast", [False, True])
@torch.no_grad()
def test_preview_shows_each_latent_frame_as_a_first_one(residual: bool, fast: bool) -> None:
    torch.manual_seed(0)
    vae = build_autoencoder(residual=residual)
    latents = torch.randn(1, LATENT_CHANNELS, 4, 4, 6)
    video = decode_pixels(vae, latents)
    alone = decode_pixels(vae, latents[:, :, 2:])
    if fast:
        use_fused_vae(vae)
    shown = decode_preview(vae, latents, [2, 0])
    assert shown.shape == (2, 3, *video.shape[3:])
    torch.testing.assert_close(shown[1], video[0, :, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shown[0], alone[0, :, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(shown[0], video[0, :, 8], atol=1e-3), "has no context"


def test_preview_of_a_batch_or_of_nothing_is_refused() -> None:
    vae = build_autoencoder()
    with pytest.raises(AssertionError, match=r"\(2, 4, 1, 4, 4\)"):
        decode_preview(vae, torch.zeros(2, LATENT_CHANNELS, 1, 4, 4), [0])
    with pytest.raises(AssertionError):
        decode_preview(vae, torch.zeros(1, LATENT_CHANNELS, 1, 4, 4), [])
