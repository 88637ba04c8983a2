"""Takes whose frames are denoised all at once, by one transformer or by two in turn."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engine.autoencoder.memory import latent_shape
from engine.denoise.beginnings import ALL, Part
from engine.denoise.experts import ExpertGuide
from engine.denoise.family import Shape
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import Guidance, GuidedText, gate_step
from engine.denoise.rollout import FlowRollout
from engine.denoise.sampler import Schedule
from engine.denoise.states import StateTap
from engine.generators.wan import memory
from engine.generators.wan.prefix_keys import for_take
from engine.generators.wan.settings import OWN, WanDefaults
from engine.machine.device import to_device
from engine.protocols import Denoiser
from engine.settings.presets import DenoiseSettings
from engine.types import VideoSpec

if TYPE_CHECKING:
    from engine.generators.wan.folder import WanParts
    from engine.generators.wan.generator import WanGenerator


class FlowRun:
    """`engine.generators.wan.variant.Run`."""

    goes_on = True

    def check(self, folder: Path, defaults: WanDefaults, config: Any) -> None:
        """Nothing more than of every variant."""

    def settings(self, given: DenoiseSettings, parts: WanParts) -> tuple[DenoiseSettings, Mapping[str, str]]:
        why = _computes_its_prefix(parts) if given.prefix_kept else None
        if why is not None:
            return replace(given, prefix_kept=0.0), {"prefix_kept": f"off: {why}"}
        return given, {}

    def num_steps(self, schedule: Schedule, parts: WanParts) -> int:
        return schedule.num_steps

    def shape(self, parts: WanParts, rows: int) -> Shape:
        shape = latent_shape(parts.vae, parts.spec)
        tokens = memory.num_tokens(parts, shape)
        return Shape(
            batch=rows,
            tokens=tokens,
            text_tokens=parts.max_text_tokens,
            prefix_tokens=tokens // shape[2] * memory.clean_prefix_frames(parts, parts.spec),
        )

    def denoise_bytes(self, parts: WanParts, spec: VideoSpec, rows: int, settings: DenoiseSettings) -> int:
        return memory.denoise_bytes(parts, spec, rows, settings)

    def kept_bytes(self, parts: WanParts, spec: VideoSpec) -> int:
        """The channels beside the latents, and the input of a step that holds both."""
        _, _, frames, height, width = latent_shape(parts.vae, spec)
        beside = parts.variant.conditioning.num_channels(parts.vae.config)
        together = beside + parts.vae.config.z_dim if beside else 0
        return int(4 * (beside + together) * frames * height * width)

    def rollout(
        self,
        generator: WanGenerator,
        text: GuidedText,
        noise: Tensor,
        encoded: Tensor,
        watch: FiniteWatch,
        part: Part = ALL,
        tap: StateTap | None = None,
    ) -> FlowRollout:
        parts, settings, num_steps = generator.parts, generator.settings, generator.schedule.num_steps

        def guide_of(denoiser: Denoiser, scale: float) -> Guidance:
            return Guidance(
                for_take(denoiser, generator.schedule.timesteps, settings.prefix_kept),
                text,
                scale,
                batched=generator.batched,
                gate_step=gate_step(num_steps, settings.cfg_gate),
                cached=generator.extrapolated,
                tap=tap,
            )

        guides = [
            functools.partial(guide_of, denoiser, scale)
            for denoiser, scale in zip(generator.denoisers, generator.guidance_scales, strict=True)
        ]
        sampler = parts.variant.conditioning.sampler(
            generator.schedule, noise, encoded, patch_px=parts.transformer.config.patch_size[1]
        )
        guide = guides[0]() if parts.boundary is None else ExpertGuide(parts.boundary, guides)
        known = tuple(to_device(velocity, noise.device) for velocity in part.known)
        return FlowRollout(
            sampler,
            guide,
            watch,
            num_steps=num_steps,
            early_stop=settings.early_stop,
            part=replace(part, known=known),
        )


def _computes_its_prefix(parts: WanParts) -> str | None:
    """Why nothing of the prefix can be kept for further steps; None: it can."""
    if parts.defaults.prefix_attention == OWN:
        return "its prefix looks at itself alone, so that it is the same in all steps"
    if not parts.variant.conditioning.clean_prefix:
        return f"{parts.variant.name} has no clean prefix among its tokens"
    if "experts" in parts.streamed:
        return "what a transformer has computed goes with it, and memory.experts is streamed"
    return None
