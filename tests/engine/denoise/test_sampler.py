"""Schedules against the library's own loops, the two timesteps of a prefix, and the preview."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

import engine
from engine.denoise.sampler import PrefixSampler, PrefixTimestep, fixed_schedule, read_schedule
from engine.errors import ModelError

torch.set_num_threads(1)

UNIPC = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0)
EULER = FlowMatchEulerDiscreteScheduler(shift=5.0)
CPU = torch.device("cpu")
ENGINE = Path(engine.__file__).parent

both_schedulers = pytest.mark.parametrize("scheduler", [UNIPC, EULER], ids=["unipc", "euler"])


def velocity_field(latents: Tensor, timestep: float) -> Tensor:
    mix = torch.linspace(-1, 1, 16).view(4, 4)
    return torch.einsum("oc,bcfhw->bofhw", mix, torch.tanh(latents)) * (1 + timestep / 1000)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_steps", [1, 2, 12, 50])
@both_schedulers
def test_schedule_equals_the_scheduler(
    scheduler: UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler, num_steps: int
) -> None:
    noise = random(1, 4, 5, 2, 2, seed=2)
    sampler = PrefixSampler(read_schedule(scheduler, num_steps), noise, noise[:, :, :1] * 0, patch_px=1)
    library = type(scheduler).from_config(scheduler.config)
    library.set_timesteps(num_steps)
    expected = noise
    for timestep in library.timesteps:
        tokens = sampler.timestep.per_token(CPU)
        assert tokens.shape == (1, 5 * 4) and sampler.timestep.value == float(timestep)
        assert (tokens[:, :4] == 0).all() and (tokens[:, 4:] == float(timestep)).all()
        velocity = velocity_field(expected, float(timestep))
        expected = library.step(velocity, timestep, expected, return_dict=False)[0]
        sampler.advance(velocity)
    assert sampler.step == num_steps
    torch.testing.assert_close(sampler.latents[:, :, 1:], expected[:, :, 1:], atol=2e-5, rtol=0)
    assert (sampler.latents[:, :, :1] == 0).all(), "the prefix stays clean"


def test_fixed_timesteps_are_eulers_steps_at_them() -> None:
    """Against the library's Euler scheduler, told the same noise shares."""
    timesteps = [1000.0, 900.0, 550.0, 125.0]
    noise = random(1, 4, 5, 2, 2, seed=2)
    schedule = fixed_schedule(timesteps)
    sampler = PrefixSampler(schedule, noise, noise[:, :, :1] * 0, patch_px=1)
    library, expected = FlowMatchEulerDiscreteScheduler(shift=1.0), noise
    library.set_timesteps(sigmas=[timestep / 1000 for timestep in timesteps])
    for step, timestep in enumerate(library.timesteps):
        assert sampler.timestep.value == timesteps[step] == pytest.approx(float(timestep))
        assert schedule.noise_share(step) == pytest.approx(timesteps[step] / 1000)
        velocity = velocity_field(expected, float(timestep))
        expected = library.step(velocity, timestep, expected, return_dict=False)[0]
        sampler.advance(velocity)
    assert schedule.num_steps == 4 and sampler.step == 4
    torch.testing.assert_close(sampler.latents[:, :, 1:], expected[:, :, 1:], atol=2e-5, rtol=0)


class ShiftsTheNoiseAlone(FlowMatchEulerDiscreteScheduler):
    """What the library makes of timesteps= beside a shift."""

    def set_timesteps(self, num_steps: int) -> None:
        super().set_timesteps(timesteps=torch.linspace(1000, 1, num_steps).tolist())


def test_timesteps_and_noise_that_part_are_refused() -> None:
    with pytest.raises(ModelError, match=r"tells timestep 750\.25 at step 2 of 5, .* that of 937"):
        read_schedule(ShiftsTheNoiseAlone(shift=5.0), 5)
    read_schedule(ShiftsTheNoiseAlone(shift=1.0), 5)


def test_grids_are_made_in_one_place() -> None:
    """Training samples with the library's own loop."""
    places = {
        path.relative_to(ENGINE).as_posix()
        for path in ENGINE.rglob("*.py")
        if ".set_timesteps(" in path.read_text() or ".set_shift(" in path.read_text()
    }
    assert places == {"denoise/sampler.py", "demo/training/batch_sampler.py"}


def test_reading_a_schedule_leaves_the_scheduler_alone() -> None:
    UNIPC.set_timesteps(7)
    read_schedule(UNIPC, 3)
    assert len(UNIPC.timesteps) == 7 and UNIPC.step_index is None


def test_a_prefix_must_leave_something_to_generate() -> None:
    noise = torch.zeros(1, 4, 3, 2, 2)
    with pytest.raises(AssertionError, match="prefix"):
        PrefixSampler(read_schedule(EULER, 2), noise, noise, patch_px=1)


@pytest.mark.parametrize(
    ("prefix_frames", "per_frame"),
    [(0, [7.5, 7.5, 7.5]), (1, [0.0, 7.5, 7.5]), (2, [0.0, 0.0, 7.5])],
)
def test_a_timestep_says_which_tokens_are_clean(prefix_frames: int, per_frame: list[float]) -> None:
    timestep = PrefixTimestep(value=7.5, prefix_frames=prefix_frames, latent_frames=3, tokens_per_frame=2)
    assert timestep.per_frame(CPU).tolist() == [per_frame]
    assert timestep.per_token(CPU).tolist() == [[value for value in per_frame for _ in range(2)]]
    assert timestep.prefix_tokens == 2 * prefix_frames
    assert timestep.per_token(CPU).dtype == torch.float32


def test_tokens_of_a_frame_follow_the_patch() -> None:
    noise = random(1, 4, 3, 4, 6, seed=2)
    sampler = PrefixSampler(read_schedule(EULER, 2), noise, noise[:, :, :2], patch_px=2)
    assert (sampler.timestep.tokens_per_frame, sampler.timestep.prefix_tokens) == (6, 12)


@pytest.mark.parametrize("num_steps", [1, 5, 30])
@both_schedulers
def test_the_preview_of_a_true_flow_is_what_it_flows_to(
    scheduler: UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler, num_steps: int
) -> None:
    noise, clean, prefix = (
        random(1, 4, 4, 2, 2, seed=1),
        random(1, 4, 4, 2, 2, seed=2),
        random(1, 4, 1, 2, 2, seed=3),
    )
    sampler = PrefixSampler(read_schedule(scheduler, num_steps), noise, prefix, patch_px=1)
    expected = torch.cat([prefix, clean[:, :, 1:]], dim=2)
    for _ in range(num_steps):
        before = sampler.latents
        torch.testing.assert_close(sampler.preview(noise - clean), expected, atol=2e-5, rtol=0)
        assert sampler.latents.equal(before), "a look changes nothing"
        sampler.advance(noise - clean)
    torch.testing.assert_close(sampler.latents, expected, atol=2e-5, rtol=0)


@both_schedulers
def test_the_share_of_noise_falls_and_agrees_with_the_timesteps(
    scheduler: UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler,
) -> None:
    schedule = read_schedule(scheduler, 12)
    shares = [schedule.noise_share(step) for step in range(13)]
    assert shares[0] == 1.0 and abs(shares[-1]) < 1e-4
    assert all(later < earlier for earlier, later in itertools.pairwise(shares))
    for share, timestep in zip(shares, schedule.timesteps, strict=False):
        assert abs(share - timestep / 1000) < 1.1e-3  # UniPC rounds its timesteps down to whole numbers
