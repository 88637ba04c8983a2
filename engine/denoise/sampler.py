"""Flow sampling: a schedule as plain numbers, and the latents it moves, behind a prefix or beside channels.

The deterministic flow schedulers of the library are linear in the initial noise and the velocities: their
coefficients are read off once, on the host, and the device loop needs no scheduler and never synchronizes.
Knows neither transformer nor text. Invariant: a prefix is always seen clean and at timestep 0.
Z latent channels . F latent frames, the first K of them prefix . h, w latent pixels . S tokens
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.errors import ModelError

NUM_TRAIN_TIMESTEPS = 1000
LARGEST_ROUNDING = 1.1
"""Of a timestep to a whole number, as UniPC does it, and of fp32 in the noise that is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Timesteps 0 to 1000, and the weights of what each step returns.

    After step i the latents are weights[i][0] * noise + sum over j <= i of weights[i][j + 1] * velocity[j].
    """

    timesteps: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    first_share: float = 1.0
    """Of noise in what the first step is given, which is noise alone: some models begin a little below 1."""

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    def noise_share(self, step: int) -> float:
        """s of the latents before `step`: what the weights leave of the noise under a velocity noise - x_0.

        The timesteps say it too, but some schedulers (UniPC) round them to whole numbers.
        """
        return self.first_share + (sum(self.weights[step - 1][1:]) if step else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixTimestep:
    """The timestep of one step: 0 on the clean frames of the prefix, if there are any, `value` on all others.

    Two distinct values are all there is, and `value` is known on the host: whoever needs a tensor makes it
    without waiting for the device.
    """

    value: float  # 0 to 1000
    prefix_frames: int  # latent frames
    latent_frames: int
    tokens_per_frame: int

    @property
    def prefix_tokens(self) -> int:
        return self.prefix_frames * self.tokens_per_frame

    def per_frame(self, device: torch.device) -> Tensor:
        """float32 [1, F]."""
        timestep = torch.full((1, self.latent_frames), self.value, device=device)
        timestep[:, : self.prefix_frames] = 0
        return timestep

    def per_token(self, device: torch.device) -> Tensor:
        """float32 [1, S]."""
        return self.per_frame(device).repeat_interleave(self.tokens_per_frame, dim=1)


def read_schedule(scheduler: Any, num_steps: int, *, sigmas: Any = None) -> Schedule:
    """What a deterministic diffusers scheduler does in `num_steps` steps, by running it on basis vectors.

    The noise is unit vector 0 and the velocity of step j unit vector j + 1, so the sample that the scheduler
    returns *is* the row of weights. Works for any scheduler that is linear in its inputs (UniPC, Euler).
    sigmas: the noise levels before its shift, an array of `num_steps`; None leaves them to it.

    Raises ModelError where the timesteps that the model is told are not those of the noise that is left.
    """
    stepper = type(scheduler).from_config(scheduler.config)  # a scheduler carries state; leave the given one
    stepper.set_timesteps(num_steps, **({} if sigmas is None else {"sigmas": sigmas}))
    basis = torch.eye(num_steps + 1, dtype=torch.float64)[:, None, None, :, None, None]
    sample = basis[0]  # [1, 1, num_steps + 1, 1, 1]: the schedulers expect five axes
    weights = []
    for step, timestep in enumerate(stepper.timesteps):
        sample = stepper.step(basis[step + 1], timestep, sample, return_dict=False)[0]
        weights.append(tuple(sample.flatten()[: step + 2].tolist()))
    schedule = Schedule(
        timesteps=tuple(float(timestep) for timestep in stepper.timesteps),
        weights=tuple(weights),
        first_share=1.0 if sigmas is None else float(stepper.sigmas[0]),
    )
    _require_one_grid(schedule, type(scheduler).__name__)
    return schedule


def _require_one_grid(schedule: Schedule, scheduler: str) -> None:
    """Some ways of the library to shift a grid shift the noise alone (docs/behaviour.md)."""
    for step, timestep in enumerate(schedule.timesteps):
        left = NUM_TRAIN_TIMESTEPS * schedule.noise_share(step)
        if not abs(timestep - left) <= LARGEST_ROUNDING:
            raise ModelError(
                f"{scheduler} tells timestep {timestep:g} at step {step + 1} of {schedule.num_steps}, where"
                f" the noise that is left is that of {left:g}",
                fix="use plain flow sigmas with a shift in scheduler_config.json",
            )


def fixed_schedule(timesteps: Sequence[float]) -> Schedule:
    """Euler steps at the timesteps (1000 is noise) that a few-step model was distilled for, then to 0.

    x moves by (s_next - s) velocity with s = t / 1000, so the weight of each velocity is that difference.
    """
    shares = [timestep / NUM_TRAIN_TIMESTEPS for timestep in timesteps]
    moves = [after - before for before, after in itertools.pairwise([*shares, 0.0])]
    return Schedule(
        timesteps=tuple(float(timestep) for timestep in timesteps),
        weights=tuple((1.0, *moves[: step + 1]) for step in range(len(moves))),
    )


class FlowSampler:
    """The latents of one job, from noise alone. Predict a velocity for `model_input` at `timestep`, `advance`
    with it, and so on; at the end `latents` are the result.

    Keeps noise and velocities of all steps, float32: (num_steps + 1) times the size of the latents. Of N
    takes at once all that is [1, ...] here is [N, ...], each row as if it were alone.
    """

    prefix_frames = 0

    def __init__(self, schedule: Schedule, noise: Tensor, *, patch_px: int) -> None:
        """noise float32 [1, Z, F, h, w]; patch size."""
        self._schedule = schedule
        self._inputs = [noise]
        self._current = noise
        self._tokens_per_frame = (noise.shape[3] // patch_px) * (noise.shape[4] // patch_px)

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return len(self._inputs) - 1

    @property
    def velocities(self) -> tuple[Tensor, ...]:
        """Of the steps that have been taken."""
        return tuple(self._inputs[1:])

    @property
    def latents(self) -> Tensor:
        """Current latents [1, Z, F, h, w]: the result."""
        return self._shown(self._current)

    @property
    def model_input(self) -> Tensor:
        """[1, Z, F, h, w], or with more channels where the model sees more than the latents."""
        return self.latents

    @property
    def timestep(self) -> PrefixTimestep:
        """Of the next step."""
        return PrefixTimestep(
            value=self._schedule.timesteps[self.step],
            prefix_frames=self.prefix_frames,
            latent_frames=self._current.shape[2],
            tokens_per_frame=self._tokens_per_frame,
        )

    def preview(self, velocity: Tensor) -> Tensor:
        """The clean latents [1, Z, F, h, w] that `velocity` of the next step points at.

        Flow matching: x_t = (1 - s) x_0 + s noise and velocity = noise - x_0, so x_0 = x_t - s velocity
        (Lipman et al. 2023, arXiv 2210.02747).
        """
        noise_share = self._schedule.noise_share(self.step)
        return self._shown(self._current - noise_share * velocity.to(self._current.dtype))

    def advance(self, velocity: Tensor) -> None:
        """Take one step with the velocity [1, Z, F, h, w] predicted for `model_input` at `timestep`."""
        self._inputs.append(velocity.to(self._current.dtype))
        self._current = self._combined()

    def go_on(self, velocities: Sequence[Tensor]) -> None:
        """Behind the first steps, taken before: the same latents as after `advance` with each of them."""
        assert self.step == 0, f"{self.step} steps were taken"
        self._inputs += [one.to(self._current.dtype) for one in velocities]
        if velocities:
            self._current = self._combined()

    def returned(
        self, to: int, fresh: Tensor, where: Tensor, shown: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Noise, and velocities of the first `to` steps, behind which the latents are as noisy as they were
        there: `where` (bool, [1, 1, F, h, w]) what they are now with `fresh` noise, elsewhere what they were.

        From noise share s to r > s, x_r = a x_s + sqrt(r^2 - (a s)^2) fresh with a = (1 - r) / (1 - s), the
        forward process of flow matching (Restart sampling, Xu et al. 2023, arXiv 2306.14878, in its terms).
        Steps are kept as velocities, so x_r is told as the point of a straight line from some noise to
        `shown`, the clean latents [1, Z, F, h, w] that the last step pointed at.
        """
        assert 0 < to < self.step, f"from step {self.step} back to {to}"
        low, high = self._schedule.noise_share(self.step), self._schedule.noise_share(to)
        keep = (1.0 - high) / (1.0 - low)
        back = keep * self._current + math.sqrt(high**2 - (keep * low) ** 2) * fresh
        of_noise, *of_steps = self._schedule.weights[to - 1]
        moved = sum(of_steps)  # back = of_noise * noise + moved * (noise - shown)
        noise = (back + moved * shown) / (of_noise + moved)
        velocity = noise - shown
        return (
            torch.where(where, noise, self._inputs[0]),
            tuple(torch.where(where, velocity, before) for before in self._inputs[1 : to + 1]),
        )

    def _combined(self) -> Tensor:
        """Noise and velocities, as the schedule weighs them after the last step."""
        weights = self._schedule.weights[self.step - 1]
        current = self._inputs[0] * weights[0]
        for tensor, weight in zip(self._inputs[1:], weights[1:], strict=True):
            current.add_(tensor, alpha=weight)
        return current

    def _shown(self, latents: Tensor) -> Tensor:
        return latents


class PrefixSampler(FlowSampler):
    """With a prefix that is put back clean, into what the model sees and into the result."""

    def __init__(self, schedule: Schedule, noise: Tensor, prefix: Tensor, *, patch_px: int) -> None:
        """noise float32 [1, Z, F, h, w]; clean normalised prefix [1, Z, K, h, w]; patch size."""
        _, _, latent_frames, _, _ = noise.shape
        assert 0 < prefix.shape[2] < latent_frames and prefix.shape[3:] == noise.shape[3:], (
            f"prefix {tuple(prefix.shape)}, noise {tuple(noise.shape)}"
        )
        super().__init__(schedule, noise, patch_px=patch_px)
        self._prefix = prefix.to(noise.dtype).expand(len(noise), -1, -1, -1, -1)
        self.prefix_frames = prefix.shape[2]

    def _shown(self, latents: Tensor) -> Tensor:
        return torch.cat([self._prefix, latents[:, :, self.prefix_frames :]], dim=2)


class ChannelSampler(FlowSampler):
    """With channels that the model sees beside the latents, the same at every step."""

    def __init__(self, schedule: Schedule, noise: Tensor, channels: Tensor, *, patch_px: int) -> None:
        """noise float32 [1, Z, F, h, w]; channels [1, C, F, h, w]; patch size."""
        assert channels.shape[2:] == noise.shape[2:], f"{tuple(channels.shape)}, noise {tuple(noise.shape)}"
        super().__init__(schedule, noise, patch_px=patch_px)
        self._channels = channels.to(noise.dtype).expand(len(noise), -1, -1, -1, -1)

    @property
    def model_input(self) -> Tensor:
        """[1, Z + C, F, h, w]."""
        return torch.cat([self._current, self._channels], dim=1)
