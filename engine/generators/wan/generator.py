"""The Wan family: takes that continue a clean prefix, by one of several variants of the model.

Knows no critic, no attempts, no reference clip, and no variant: what differs is asked of `parts.variant`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.autoencoder.memory import latent_shape
from engine.denoise.assemble import Assembled, assemble, assemble_around, quantize_outline
from engine.denoise.beginnings import ALL, Beginnings, Part, refuse_scouts
from engine.denoise.experts import EXPERTS, VisitingDenoiser
from engine.denoise.family import Shape
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import GuidedText, gate_step
from engine.denoise.lora import Lora, check_names, for_expert, merge_into
from engine.denoise.lora_grid import grid_of
from engine.denoise.recent import Recent
from engine.denoise.restarts import refuse_restarts
from engine.denoise.rollout import Rollout
from engine.denoise.sampler import Schedule, fixed_schedule, read_schedule
from engine.denoise.scouts import MakesScouts
from engine.denoise.states import StateTap
from engine.denoise.step_cache import steps_to_extrapolate
from engine.denoise.take import refuse_size
from engine.errors import ConfigError
from engine.generators.wan.components import place
from engine.generators.wan.folder import WanParts, on_the_grid_of, read_folder
from engine.generators.wan.footprint import chunk_latents, footprint, with_scouts
from engine.generators.wan.job import Request, WanJob
from engine.generators.wan.lora_names import lora_aliases
from engine.generators.wan.prefix_keys import computing_steps, prefix_note
from engine.generators.wan.refusals import (
    ON_HOST_IN_TURN,
    refuse,
    refuse_for,
    require_exportable,
    why_one_at_a_time,
    why_one_size,
)
from engine.generators.wan.scales import scales_of
from engine.generators.wan.settings import WanDefaults
from engine.generators.wan.states import wan_sites
from engine.generators.wan.text import token_ids
from engine.machine.offload import TakingTurns, release
from engine.machine.phases import phase
from engine.protocols import Denoiser
from engine.settings.presets import DenoiseSettings
from engine.settings.sidecars import SIDECAR
from engine.types import Footprint, Prompt, Scenario, ScoutForm, StateSites, VideoSpec
from engine.words import counted

REMEMBERED = 16
"""Prefixes and negative prompts kept encoded, each some megabytes, for the scenarios in flight at a time."""


def load(
    folder: Path,
    *,
    device: str,
    dtype: str,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    denoise: DenoiseSettings | None = None,
    loras: Sequence[Lora] = (),
    cache: Path | None = None,
    with_weights: bool = True,
    exported: Assembled | None = None,
    streamed: Collection[str] = (),
    capability: tuple[int, int] | None = None,
    states: bool = False,
) -> WanGenerator:
    """The generator of a diffusers folder; None takes its default. dtype: fp32, bf16 or fp16.

    `loras` are merged into the transformer first; one that does not fit is refused with shapes alone.
    `cache` is a folder for probed kernel choices; None keeps nothing. `exported` stands in for the
    transformer, whose weights are then not read; of `denoise` only what is around it is used. `streamed`:
    "text_encoder", "blocks" and "experts" stay on the host, the last in turn. `capability`: of a GPU that is
    not here, to plan for. `states`: takes keep pooled hidden states.

    Raises ModelError when a component is missing, incomplete or of another kind, ConfigError for bad values.
    """
    settings = denoise or DenoiseSettings()
    refuse(num_inference_steps, guidance_scale, settings, streamed, exported)
    with phase("weights" if with_weights else "modules"):
        parts = read_folder(
            folder,
            device,
            dtype,
            with_weights=with_weights,
            with_transformer=exported is None,
            streamed=frozenset(streamed),
        )
    parts = on_the_grid_of(parts, grid_of(loras))
    refuse_for(parts, exported)
    fixed = parts.defaults.timesteps
    if fixed and num_inference_steps not in (None, len(fixed)):
        raise ConfigError(
            f"{counted(num_inference_steps or 0, 'step is', 'steps are')} asked of a model that was "
            f"distilled for {len(fixed)}",
            fix=f"leave --steps out, or remove timesteps from {folder / SIDECAR}",
        )
    steps = parts.defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
    _use_loras(parts, loras, with_weights=with_weights)
    settings, left_out = parts.variant.run.settings(settings, parts)
    denoisers = [parts.variant.family(one).library_denoiser() for one in parts.transformers]
    generator = WanGenerator(parts, denoisers, steps, guidance_scale, settings)
    if with_weights:
        made = [exported] if exported else _assembled(generator, cache)
        _use(generator, made)
        generator.notes.update(left_out)
    elif exported is None:
        for one in parts.transformers:
            quantize_outline(parts.variant.family(one), settings, parts.device, capability, _policies(parts))
    generator.keep_states(states)
    return generator


def _use_loras(parts: WanParts, loras: Sequence[Lora], *, with_weights: bool) -> None:
    """Merge each into the transformers that it is for; without weights, see whether it fits."""
    use = merge_into if with_weights else check_names
    names = EXPERTS if parts.boundary is not None else ("",)
    for name, transformer in zip(names, parts.transformers, strict=True):
        if chosen := for_expert(loras, name, names):
            use(transformer, chosen, lora_aliases(transformer))


def _assembled(generator: WanGenerator, cache: Path | None) -> list[Assembled]:
    """A denoiser for each transformer; where they take turns, all over one place on the device."""
    parts, settings = generator.parts, generator.settings

    def made(transformer: Any) -> Assembled:
        family = parts.variant.family(transformer)
        return assemble(family, settings, generator.shape, cache=cache, folder=_policies(parts))

    if ON_HOST_IN_TURN not in parts.streamed:
        return [made(transformer) for transformer in parts.transformers]
    weights, visiting = TakingTurns(), list[Assembled]()
    for transformer in reversed(parts.transformers):  # the first one, with which takes begin, stays
        if visiting:
            release(parts.transformers[1], visiting[0].module)
        place(transformer, transformer.blocks, parts.device, streamed=False)
        visiting.insert(0, made(transformer))
        weights.add(visiting[0].module)
    inner, last = visiting[0].denoiser, len(visiting) - 1
    return [
        dataclasses.replace(one, denoiser=VisitingDenoiser(inner, weights, last - index))
        for index, one in enumerate(visiting)
    ]


def _policies(parts: WanParts) -> Path | None:
    """Where a precision policy may be: it is measured on one transformer."""
    return parts.folder if parts.boundary is None else None


def _use(generator: WanGenerator, made: Sequence[Assembled]) -> None:
    """Its denoisers from now on, and notes on all that was chosen."""
    parts, settings = generator.parts, generator.settings
    generator.denoisers, generator.notes = tuple(one.denoiser for one in made), dict(made[0].notes)
    for one in made[1:]:
        generator.notes |= {
            f"{name} of the second": note for name, note in one.notes.items() if made[0].notes[name] != note
        }
    generator.denoiser_bytes, generator.scratch_bytes = made[0].num_bytes, made[0].scratch_bytes
    generator.notes |= assemble_around(parts, settings, generator.extrapolated)
    if prefix := prefix_note(made[0].denoiser, settings.prefix_kept):
        generator.notes["prefix"] = prefix


class WanGenerator(MakesScouts[WanJob]):
    """Generator over one loaded folder. Holds no state of a job; its caches only save encoding twice."""

    def __init__(
        self,
        parts: WanParts,
        denoisers: Sequence[Denoiser],
        num_inference_steps: int,
        guidance_scale: float | None,
        settings: DenoiseSettings | None = None,
    ) -> None:
        """A scale that is given is that of all experts; None: as the folder says."""
        self.parts: WanParts = parts
        self.denoisers: tuple[Denoiser, ...] = tuple(denoisers)
        """Of each transformer, in the order of `parts.transformers`."""
        # of an exported form that stands in for the transformer: its weights, and what it holds for its steps
        self.denoiser_bytes: int | None = None
        self.scratch_bytes: int | None = None
        self.notes: dict[str, str] = {}
        self.settings = settings or DenoiseSettings()
        self.guidance_scales = scales_of(parts, guidance_scale)
        # One batch-2 forward fills a GPU; on a CPU two forwards stay in its caches and are faster (measured).
        self.batched = parts.device.type == "cuda" and self.is_guided
        self.fused = self.settings.vae != "library"
        self.most_chunk_latents = self.settings.vae_chunk
        """Of a pass of the autoencoder, at most; 0: as `chunk_latents` finds right."""
        fixed = parts.defaults.timesteps
        self.schedule: Schedule = (
            fixed_schedule(fixed) if fixed else read_schedule(parts.scheduler, num_inference_steps)
        )
        self.extrapolated = steps_to_extrapolate(self.schedule.timesteps, self.settings, _policies(parts))
        self._keeps_states = False
        self.negatives: Recent[Tensor] = Recent(REMEMBERED)
        self.prefixes: Recent[Tensor] = Recent(REMEMBERED)
        kept = self.settings.prefix_kept
        self.beginnings = Beginnings(
            self.settings,
            self.schedule.num_steps,
            self.extrapolated,
            computing=computing_steps(self.schedule.timesteps, kept) if kept else None,
        )

    @property
    def denoiser(self) -> Denoiser:
        """The first one, which is the only one but for models of two transformers."""
        return self.denoisers[0]

    @denoiser.setter
    def denoiser(self, other: Denoiser) -> None:
        self.denoisers = (other, *self.denoisers[1:])

    @property
    def is_guided(self) -> bool:
        return self.guidance_scales[0] != 1.0

    @property
    def num_steps(self) -> int:
        """Denoise steps of one take."""
        return self.parts.variant.run.num_steps(self.schedule, self.parts)

    @property
    def sites(self) -> StateSites | None:
        """Where takes keep hidden states; None: nowhere."""
        return wan_sites(self) if self._keeps_states else None

    def keep_states(self, wanted: bool) -> None:
        """From now on. ConfigError where takes have none."""
        if wanted:
            wan_sites(self)
        self._keeps_states = wanted

    @property
    def spec(self) -> VideoSpec:
        return self.parts.spec

    @property
    def negative_prompt(self) -> str:
        return self.parts.defaults.negative_prompt

    @property
    def defaults(self) -> WanDefaults:
        return self.parts.defaults

    @property
    def shape(self) -> Shape:
        """What one forward of the denoiser sees."""
        return self.parts.variant.run.shape(self.parts, 2 if self.batched else 1)

    @property
    def forward_sizes(self) -> dict[str, int]:
        """Latent frames F, latent pixels h and w, and text tokens L of one forward: what is exported for.

        ConfigError where no form of this model is exported."""
        require_exportable(self.parts)
        _, _, frames, height, width = latent_shape(self.parts.vae, self.spec)
        return {"F": frames, "h": height, "w": width, "L": self.parts.max_text_tokens}

    @property
    def has_single_rows(self) -> bool:
        """Whether some forwards have one row of text: without batched guidance, or from the gate on."""
        gate = gate_step(self.schedule.num_steps, self.settings.cfg_gate)
        return not self.batched or gate is not None

    def footprint(self, spec: VideoSpec) -> Footprint:
        return footprint(self, spec)

    def footprint_of_scouts(self, spec: VideoSpec, form: ScoutForm) -> Footprint:
        """With scouts of this form."""
        return with_scouts(self, spec, form)

    def chunk_latents(self, spec: VideoSpec) -> int:
        """Latent frames per pass of the autoencoder."""
        return chunk_latents(self, spec)

    def relieve(self) -> str | None:
        """Takes less memory from the next job on, in words; None: there is nothing left to give up."""
        if self.most_chunk_latents == 1:
            return None
        self.most_chunk_latents = 1
        return "the autoencoder takes one latent frame at a time"

    def rollout(
        self,
        text: GuidedText,
        noise: Tensor,
        encoded: Tensor,
        watch: FiniteWatch,
        part: Part = ALL,
        tap: StateTap | None = None,
    ) -> Rollout:
        """The denoise steps of one job."""
        return self.parts.variant.run.rollout(self, text, noise, encoded, watch, part, tap)

    def check_scouts(self, form: ScoutForm) -> None:
        """ConfigError where `scout` cannot make them."""
        refuse_scouts(
            form,
            num_steps=self.schedule.num_steps,
            is_distilled=bool(self.defaults.timesteps),
            goes_on=self.parts.variant.run.goes_on,
            one_at_a_time=why_one_at_a_time(self, form),
            one_size=why_one_size(self),
        )
        patch_px = self.parts.transformer.config.patch_size[1]
        refuse_size(self.spec, form.shrink, multiple=self.parts.vae.config.scale_factor_spatial * patch_px)

    def check_restarts(self, steps: int) -> None:
        """ConfigError where takes cannot take their first `steps` again."""
        refuse_restarts(
            steps,
            num_steps=self.schedule.num_steps,
            goes_on=self.parts.variant.run.goes_on,
            early_stop=self.settings.early_stop,
        )

    def _schedule(self, num_steps: int) -> Schedule:
        return read_schedule(self.parts.scheduler, num_steps)

    def _job(self, scenario: Scenario, prompts: Sequence[Prompt], asked: Mapping[str, Any]) -> WanJob:
        request = Request(
            token_ids=tuple(token_ids(self.parts, one.text) for one in prompts),
            negatives=tuple((one.negative, token_ids(self.parts, one.negative)) for one in prompts),
            **asked,
        )
        return WanJob(self, request)
