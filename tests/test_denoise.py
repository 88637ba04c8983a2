"""Autoencoder chunks, schedules and guidance against the library's own loops."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from tiny_wan import LATENT_CHANNELS, build_autoencoder, build_transformer
from torch import Tensor

from engine.denoise.guidance import EagerDenoiser, GuidedText, guided_velocity
from engine.denoise.sampler import PrefixSampler, read_schedule
from engine.denoise.vae import (
    decode_in_chunks,
    decode_pixels,
    denormalise,
    encode_mode,
    encode_moments,
    latent_frames_of,
    normalise,
    num_chunks,
    use_channels_last,
)

torch.set_num_threads(1)

UNIPC = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0)
EULER = FlowMatchEulerDiscreteScheduler(shift=5.0)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "residual"])
def autoencoder(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return build_autoencoder(residual=request.param)


def random_pixels(num_frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, num_frames, 32, 48, generator=generator) * 2 - 1


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
        assert len(pieces) == num_chunks(5, chunk_latents)
        assert sum(piece.shape[2] for piece in pieces) == 17
    assert shown.std() > 0.01, "a constant picture would prove nothing"


def test_one_frame_is_one_latent(autoencoder: AutoencoderKLWan) -> None:
    with torch.no_grad():
        latents = encode_mode(autoencoder, random_pixels(1))
        pixels = decode_pixels(autoencoder, denormalise(autoencoder, latents))
        expected = autoencoder.decode(denormalise(autoencoder, latents)).sample
    assert latents.shape[2] == 1 and num_chunks(1, 4) == 1
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


def velocity_field(latents: Tensor, timestep: float) -> Tensor:
    mix = torch.linspace(-1, 1, 16).view(4, 4)
    return torch.einsum("oc,bcfhw->bofhw", mix, torch.tanh(latents)) * (1 + timestep / 1000)


@pytest.mark.parametrize("num_steps", [1, 2, 12, 50])
@pytest.mark.parametrize("scheduler", [UNIPC, EULER], ids=["unipc", "euler"])
def test_schedule_equals_the_scheduler(
    scheduler: UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler, num_steps: int
) -> None:
    noise = torch.randn(1, 4, 5, 2, 2, generator=torch.Generator().manual_seed(2))
    sampler = PrefixSampler(read_schedule(scheduler, num_steps), noise, noise[:, :, :1] * 0, patch_px=1)
    library = type(scheduler).from_config(scheduler.config)
    library.set_timesteps(num_steps)
    expected = noise
    for timestep in library.timesteps:
        tokens = sampler.timestep
        assert tokens.shape == (1, 5 * 4)
        assert (tokens[:, :4] == 0).all() and (tokens[:, 4:] == float(timestep)).all()
        velocity = velocity_field(expected, float(timestep))
        expected = library.step(velocity, timestep, expected, return_dict=False)[0]
        sampler.advance(velocity)
    assert sampler.step == num_steps
    torch.testing.assert_close(sampler.latents[:, :, 1:], expected[:, :, 1:], atol=2e-5, rtol=0)
    assert (sampler.latents[:, :, :1] == 0).all(), "the prefix stays clean"


def test_reading_a_schedule_leaves_the_scheduler_alone() -> None:
    UNIPC.set_timesteps(7)
    read_schedule(UNIPC, 3)
    assert len(UNIPC.timesteps) == 7 and UNIPC.step_index is None


def test_a_prefix_must_leave_something_to_generate() -> None:
    noise = torch.zeros(1, 4, 3, 2, 2)
    with pytest.raises(AssertionError, match="prefix"):
        PrefixSampler(read_schedule(EULER, 2), noise, noise, patch_px=1)


def test_batched_guidance_equals_two_forwards_and_one_branch_is_plain() -> None:
    torch.manual_seed(0)
    denoiser = EagerDenoiser(build_transformer())
    latents, timestep = torch.randn(1, LATENT_CHANNELS, 2, 4, 4), torch.full((1, 8), 500.0)
    text = GuidedText(cond=torch.randn(1, 5, 16), uncond=torch.randn(1, 5, 16))
    with torch.no_grad():
        pair = guided_velocity(denoiser, latents, timestep, text, 4.0)
        single = guided_velocity(denoiser, latents, timestep, text, 4.0, batched=False)
        plain = guided_velocity(denoiser, latents, timestep, GuidedText(cond=text.cond, uncond=None), 4.0)
        cond = denoiser(latents, timestep, text.cond, branch="cond")
        uncond = denoiser(latents, timestep, text.uncond, branch="uncond")
    torch.testing.assert_close(pair, single, atol=1e-5, rtol=0)
    torch.testing.assert_close(pair, uncond + 4.0 * (cond - uncond), atol=1e-5, rtol=0)
    assert torch.equal(plain, cond) and (pair - plain).abs().max() > 1e-3


@pytest.mark.parametrize(("branch", "rows"), [("cond", 2), ("both", 1), ("negative", 1)])
def test_branch_and_text_rows_must_agree(branch: str, rows: int) -> None:
    denoiser = EagerDenoiser(build_transformer())
    with pytest.raises(AssertionError, match=branch):
        denoiser(
            torch.zeros(1, LATENT_CHANNELS, 2, 4, 4),
            torch.zeros(1, 8),
            torch.zeros(rows, 5, 16),
            branch=branch,
        )
