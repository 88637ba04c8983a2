"""A Cosmos3 take: tokens of both texts for its text tower, the rest as `engine.denoise.take` has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from engine.autoencoder.vae import encode_mode
from engine.denoise.beginnings import Part
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import Guidance, GuidedText, gate_step
from engine.denoise.rollout import FlowRollout
from engine.denoise.sampler import PrefixSampler
from engine.denoise.states import StateTap
from engine.denoise.take import TakeJob, TakeRequest
from engine.machine.device import to_device

if TYPE_CHECKING:
    from engine.generators.cosmos3.generator import Cosmos3Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(TakeRequest):
    """With the tokens of both texts, int64 [L] each of its own length."""

    token_ids: Tensor
    negative_ids: Tensor


class Cosmos3Job(TakeJob):
    """Job[Video]. What is made of the prefix are its normalised clean latents, float32 [1, Z, K, h, w]."""

    def __init__(self, generator: Cosmos3Generator, request: Request) -> None:
        parts = generator.parts
        self._generator, self._request = generator, request
        super().__init__(
            request,
            vae=parts.vae,
            spec=generator.spec,
            device=parts.device,
            num_steps=generator.schedule.num_steps,
            chunk_latents=generator.chunk_latents(generator.spec),
            modules={"transformer": parts.transformer, "vae": parts.vae},
            keep=generator.beginnings.put,
            sites=generator.sites,
        )

    def _rollouts(self, watch: FiniteWatch) -> Callable[[Part, int | None, Tensor], FlowRollout]:
        parts = self._generator.parts
        prefix = self._encode_prefix(
            self._generator.prefixes,
            lambda pixels: encode_mode(parts.vae, pixels, self._chunk_latents).float(),
        )

        def make(part: Part, num_steps: int | None, noise: Tensor) -> FlowRollout:
            generator = self._generator if num_steps is None else self._generator.in_steps(num_steps)
            known = tuple(to_device(velocity, parts.device) for velocity in part.known)
            return FlowRollout(
                PrefixSampler(generator.schedule, noise, prefix, patch_px=parts.patch_px),
                self._guidance(generator, self._tap if num_steps is None else None),
                watch,
                num_steps=generator.schedule.num_steps,
                early_stop=generator.settings.early_stop,
                part=replace(part, known=known),
            )

        return make

    def _guidance(self, generator: Cosmos3Generator, tap: StateTap | None) -> Guidance:
        """`tap`: of the take; a scout before it leaves no states."""
        request = self._request
        num_steps, settings = generator.schedule.num_steps, generator.settings
        guided = generator.guidance_scale != 1.0
        return Guidance(
            generator.denoiser,
            GuidedText(cond=request.token_ids, uncond=request.negative_ids if guided else None),
            generator.guidance_scale,
            batched=False,
            gate_step=gate_step(num_steps, settings.cfg_gate),
            cached=generator.extrapolated,
            tap=tap,
        )
