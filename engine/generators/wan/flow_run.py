"""Takes whose frames are denoised all at once, by one transformer or by two in turn."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engine.denoise.experts import ExpertGuide
from engine.denoise.family import Shape
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import Guidance, GuidedText, cached_steps, gate_step
from engine.denoise.sampler import Schedule
from engine.generators.wan import memory
from engine.generators.wan.rollout import FlowRollout
from engine.generators.wan.settings import WanDefaults
from engine.settings.presets import DenoiseSettings
from engine.types import VideoSpec

if TYPE_CHECKING:
    from engine.generators.wan.folder import WanParts
    from engine.generators.wan.generator import WanGenerator


class FlowRun:
    """`engine.generators.wan.variant.Run`."""

    def check(self, folder: Path, defaults: WanDefaults, config: Any) -> None:
        """Nothing more than of every variant."""

    def settings(self, given: DenoiseSettings) -> tuple[DenoiseSettings, Mapping[str, str]]:
        return given, {}

    def num_steps(self, schedule: Schedule, parts: WanParts) -> int:
        return schedule.num_steps

    def shape(self, parts: WanParts, rows: int) -> Shape:
        return Shape(
            batch=rows,
            tokens=memory.num_tokens(parts, memory.latent_shape(parts, parts.spec)),
            text_tokens=parts.max_text_tokens,
        )

    def denoise_bytes(self, parts: WanParts, spec: VideoSpec, rows: int, settings: DenoiseSettings) -> int:
        return memory.denoise_bytes(parts, spec, rows, settings)

    def kept_bytes(self, parts: WanParts, spec: VideoSpec) -> int:
        """The channels beside the latents, and the input of a step that holds both."""
        _, _, *size = memory.latent_shape(parts, spec)
        frames, height, width = size
        beside = parts.variant.conditioning.num_channels(parts.vae.config)
        together = beside + parts.vae.config.z_dim if beside else 0
        return int(4 * (beside + together) * frames * height * width)

    def rollout(
        self, generator: WanGenerator, text: GuidedText, noise: Tensor, encoded: Tensor, watch: FiniteWatch
    ) -> FlowRollout:
        parts, settings, num_steps = generator.parts, generator.settings, generator.schedule.num_steps
        guides = [
            functools.partial(
                Guidance,
                denoiser,
                text,
                scale,
                batched=generator.batched,
                gate_step=gate_step(num_steps, settings.cfg_gate),
                cached=cached_steps(num_steps, settings.step_cache),
            )
            for denoiser, scale in zip(generator.denoisers, generator.guidance_scales, strict=True)
        ]
        sampler = parts.variant.conditioning.sampler(
            generator.schedule, noise, encoded, patch_px=parts.transformer.config.patch_size[1]
        )
        guide = guides[0]() if parts.boundary is None else ExpertGuide(parts.boundary, guides)
        return FlowRollout(sampler, guide, watch, num_steps=num_steps, early_stop=settings.early_stop)
