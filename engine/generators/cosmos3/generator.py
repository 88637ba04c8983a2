"""Cosmos3 Edge, Nano and Super: a clean prefix of 3 s, the rest denoised behind it by the generation tower.

The text tower reads each prompt once; its keys and values are kept, and at every step the generation tower
runs alone. Modules come from the library, the loop is ours. Knows no attempts and no reference clip.
Invariant: pixels depend on prefix, scenario's text, prompt and seed alone: not on what ran before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Never

import torch
from torch import Tensor

from engine.autoencoder.memory import latent_shape, padded
from engine.autoencoder.vae import latent_frames_of
from engine.denoise.assemble import Assembled, assemble, assemble_around, quantize_outline
from engine.denoise.beginnings import STATES_OF_ONE_SIZE, Beginnings, refuse_scouts
from engine.denoise.family import Shape
from engine.denoise.lora import Lora, check_names, merge_into
from engine.denoise.lora_grid import grid_of
from engine.denoise.recent import Recent
from engine.denoise.restarts import refuse_restarts
from engine.denoise.sampler import Schedule
from engine.denoise.scouts import MakesScouts
from engine.denoise.states import sites_of
from engine.denoise.step_cache import steps_to_extrapolate
from engine.denoise.take import refuse_numbers, refuse_size
from engine.errors import ConfigError
from engine.generators.cosmos3.eager import EagerDenoiser
from engine.generators.cosmos3.family import Cosmos3Family
from engine.generators.cosmos3.folder import Cosmos3Parts, read_folder
from engine.generators.cosmos3.footprint import chunk_latents, footprint
from engine.generators.cosmos3.forward import patch_grid
from engine.generators.cosmos3.job import Cosmos3Job, Request
from engine.generators.cosmos3.lora_names import lora_aliases, refuse_text_changes
from engine.generators.cosmos3.prompt import negative_text, structured, token_ids, with_metadata
from engine.generators.cosmos3.schedule import schedule_of
from engine.generators.cosmos3.settings import Cosmos3Defaults
from engine.generators.cosmos3.texts import KeptTexts
from engine.protocols import Denoiser
from engine.settings.presets import EVEN, DenoiseSettings
from engine.types import Footprint, Prompt, Scenario, ScoutForm, StateSites, VideoSpec

BLOCKS, EXPERTS = "blocks", "experts"
REMEMBERED = 16
"""Prefixes kept encoded, each some megabytes, for the scenarios in flight at a time."""


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
    lends: bool = False,
    states: bool = False,
) -> Cosmos3Generator:
    """The generator of a diffusers folder; None takes its default. dtype: fp32, bf16 or fp16.

    `loras` are merged into the transformer first. `cache` is a folder for probed kernel choices. `streamed`:
    "text_encoder", the text tower, and "blocks" stay on the host. `capability`: of a GPU that is not here, to
    plan for. `lends`: a critic of the same folder reads by the text tower, which is then kept whole.
    `states`: takes keep pooled hidden states.

    Raises ModelError when a component is missing, incomplete or of another kind, ConfigError for bad values.
    """
    settings = denoise or DenoiseSettings()
    if exported is not None:
        _refuse_exported()
    _refuse(num_inference_steps, guidance_scale, settings, streamed)
    _refuse_steps(loras)
    parts = read_folder(
        folder, device, dtype, with_weights=with_weights, streamed=frozenset(streamed), words=lends
    )
    if loras:
        aliases = lora_aliases(parts.transformer)
        if lends:
            refuse_text_changes(loras, aliases)
        (merge_into if with_weights else check_names)(parts.transformer, loras, aliases)
    steps = parts.defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
    scale = parts.defaults.guidance_scale if guidance_scale is None else guidance_scale
    family = Cosmos3Family(parts.transformer, fps=parts.spec.fps)
    eager = EagerDenoiser(parts.transformer, fps=parts.spec.fps)
    generator = Cosmos3Generator(parts, eager, steps, scale, settings)
    family.refuse(settings, generator.shape)
    if with_weights:
        made = assemble(family, settings, generator.shape, cache=cache, folder=folder)
        generator.use(made)
    else:
        quantize_outline(family, settings, parts.device, capability, folder)
    generator.keeps_states = states
    return generator


def _refuse_exported() -> Never:
    raise ConfigError(
        "an exported denoiser of Cosmos3 cannot stand in for its module: prompts differ in length, and an "
        "artifact is built for one",
        fix="leave --denoiser out",
    )


def _refuse_steps(loras: Sequence[Lora]) -> None:
    if grid_of(loras) is not None:
        raise ConfigError(
            "a LoRA of step distillation brings its steps, and Cosmos3 has those of its scheduler alone",
            fix="leave that LoRA out",
        )


def _refuse(
    num_inference_steps: int | None,
    guidance_scale: float | None,
    settings: DenoiseSettings,
    streamed: Collection[str],
) -> None:
    refuse_numbers(num_inference_steps, guidance_scale)
    if settings.step_cache and settings.step_cache_by != EVEN:
        raise ConfigError(
            f"denoise.step_cache_by {settings.step_cache_by!r} is not measured for Cosmos3",
            fix=f"take {EVEN!r}",
        )
    if BLOCKS in streamed and settings.forward != "library":
        raise ConfigError(
            "memory.blocks is streamed, which only the library's forward can be",
            fix='use preset exact, or set memory.blocks = "device"',
        )
    if EXPERTS in streamed:
        raise ConfigError(
            "memory.experts is streamed, and Cosmos3 has one transformer",
            fix='set memory.experts = "device"',
        )


class Cosmos3Generator(MakesScouts[Cosmos3Job]):
    """Generator over one loaded folder. Holds no state of a job; its caches only save encoding twice."""

    def __init__(
        self,
        parts: Cosmos3Parts,
        denoiser: Denoiser,
        num_inference_steps: int,
        guidance_scale: float,
        settings: DenoiseSettings | None = None,
    ) -> None:
        self.parts: Cosmos3Parts = parts
        self.denoiser: Denoiser = KeptTexts(denoiser)
        self.notes: dict[str, str] = {}
        self.settings = settings or DenoiseSettings()
        self.guidance_scale = guidance_scale
        self.fused = self.settings.vae != "library"
        self.most_chunk_latents = self.settings.vae_chunk
        """Of a pass of the autoencoder, at most; 0: as `chunk_latents` finds right."""
        self.schedule = schedule_of(parts.scheduler, num_inference_steps)
        self.extrapolated = steps_to_extrapolate(self.schedule.timesteps, self.settings, parts.folder)
        self.keeps_states = False
        self.prefixes: Recent[Tensor] = Recent(REMEMBERED)
        self.beginnings = Beginnings(self.settings, self.schedule.num_steps, self.extrapolated)

    @property
    def num_steps(self) -> int:
        """Denoise steps of one take."""
        return self.schedule.num_steps

    @property
    def sites(self) -> StateSites | None:
        """Where takes keep hidden states; None: nowhere."""
        if not self.keeps_states:
            return None
        transformer = self.parts.transformer
        return sites_of(
            self.schedule.timesteps,
            self.extrapolated,
            num_layers=len(transformer.layers),
            width=int(transformer.config.hidden_size),
        )

    @property
    def spec(self) -> VideoSpec:
        return self.parts.spec

    @property
    def negative_prompt(self) -> str:
        return self.parts.defaults.negative_prompt

    @property
    def defaults(self) -> Cosmos3Defaults:
        return self.parts.defaults

    @property
    def reasoner(self) -> Any:
        """The transformer whose text tower a critic of the same folder may read by; None where that tower is
        not on the device."""
        return None if "text_encoder" in self.parts.streamed else self.parts.transformer

    @property
    def num_tokens(self) -> int:
        """Of the video, in one forward."""
        return self.shape.tokens

    @property
    def shape(self) -> Shape:
        """What one forward of the denoiser sees."""
        frames, rows, columns = patch_grid(latent_shape(self.parts.vae, self.spec), self.parts.patch_px)
        clean = latent_frames_of(padded(self.spec.prefix_frames))
        return Shape(
            batch=1,
            tokens=frames * rows * columns,
            text_tokens=self.parts.max_text_tokens,
            prefix_tokens=clean * rows * columns,
        )

    @property
    def forward_sizes(self) -> dict[str, int]:
        """Latent frames F, latent pixels h and w, and text tokens L of one forward: what is exported for."""
        _, _, frames, height, width = latent_shape(self.parts.vae, self.spec)
        sizes = {"F": frames, "h": height, "w": width, "S": self.num_tokens}
        return {**sizes, "L": self.parts.max_text_tokens}

    def use(self, made: Assembled) -> None:
        """Its denoiser from now on, and notes on all that was chosen."""
        self.denoiser, self.notes = KeptTexts(made.denoiser), dict(made.notes)
        self.notes |= assemble_around(self.parts, self.settings, self.extrapolated)
        if self.settings.prefix_kept:
            self.notes["prefix_kept"] = "off: it computes its prefix in every step"

    def footprint(self, spec: VideoSpec) -> Footprint:
        return footprint(self, spec)

    def chunk_latents(self, spec: VideoSpec) -> int:
        """Latent frames per pass of the autoencoder."""
        return chunk_latents(self, spec)

    def relieve(self) -> str | None:
        """Takes less memory from the next job on, in words; None: there is nothing left to give up."""
        if self.most_chunk_latents == 1:
            return None
        self.most_chunk_latents = 1
        return "the autoencoder takes one latent frame at a time"

    def check_scouts(self, form: ScoutForm) -> None:
        """ConfigError where `scout` cannot make them."""
        refuse_scouts(
            form,
            num_steps=self.schedule.num_steps,
            is_distilled=False,
            goes_on=True,
            one_at_a_time="texts of Cosmos3 have lengths of their own",
            one_size=None if self.sites is None else STATES_OF_ONE_SIZE,
        )
        refuse_size(self.spec, form.shrink, multiple=self.parts.vae.config.scale_factor_spatial)

    def footprint_of_scouts(self, spec: VideoSpec, form: ScoutForm) -> Footprint:
        """Those of fewer pixels take no more than a take."""
        return footprint(self, spec)

    def check_restarts(self, steps: int) -> None:
        """ConfigError where takes cannot take their first `steps` again."""
        refuse_restarts(
            steps,
            num_steps=self.schedule.num_steps,
            goes_on=True,
            early_stop=self.settings.early_stop,
        )

    def _schedule(self, num_steps: int) -> Schedule:
        return schedule_of(self.parts.scheduler, num_steps)

    def _job(self, scenario: Scenario, prompts: Sequence[Prompt], asked: Mapping[str, Any]) -> Cosmos3Job:
        (prompt,) = prompts
        text, negative = self._texts(scenario, prompt)
        request = Request(token_ids=self._token_ids(text), negative_ids=self._token_ids(negative), **asked)
        return Cosmos3Job(self, request)

    def _texts(self, scenario: Scenario, prompt: Prompt) -> tuple[str, str]:
        """Prompt and negative prompt as they are read."""
        spec, defaults = self.spec, self.defaults
        prefix = padded(spec.prefix_frames)
        text = prompt.text
        if defaults.structured_prompt:
            text = structured(scenario.text, prompt, spec, prefix_frames=prefix)
        num_frames = prefix + spec.num_frames
        return (
            with_metadata(text, num_frames, spec, inverse=False),
            negative_text(prompt.negative, num_frames, spec, defaults),
        )

    def _token_ids(self, text: str) -> Tensor:
        parts = self.parts
        most = parts.max_text_tokens
        return torch.tensor(token_ids(parts.tokenizer, text, system=parts.system_prompt, most=most))
