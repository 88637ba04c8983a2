"""The Wan family with per-token timesteps: a clean prefix of many frames, the rest denoised behind it.

Modules come from the library, the loop is ours (`job`). Knows no critic, no attempts, no reference clip.
P prefix frames . K latent frames of the prefix . F latent frames in all . Z channels . h, w latent pixels
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from engine.autoencoder.memory import latent_shape, padded
from engine.autoencoder.vae import latent_frames_of
from engine.autoencoder.vae_fused import use_fused_vae
from engine.denoise.assemble import Assembled, assemble, quantize_outline
from engine.denoise.family import Shape
from engine.denoise.guidance import gate_step
from engine.denoise.lora import Lora, check_names, merge_into
from engine.denoise.recent import Recent
from engine.denoise.sampler import Schedule, fixed_schedule, read_schedule
from engine.denoise.step_cache import note_of, steps_to_extrapolate
from engine.errors import ConfigError
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.family import WanFamily
from engine.generators.wan.folder import WanParts, read_folder
from engine.generators.wan.footprint import chunk_latents, footprint
from engine.generators.wan.job import Request, WanJob
from engine.generators.wan.lora_names import lora_aliases
from engine.generators.wan.memory import num_tokens
from engine.generators.wan.prefix_keys import prefix_note
from engine.generators.wan.settings import WanDefaults
from engine.generators.wan.text import token_ids
from engine.machine.phases import phase
from engine.protocols import Denoiser
from engine.settings.presets import DenoiseSettings
from engine.settings.sidecars import SIDECAR
from engine.types import Footprint, Frames, Prompt, Scenario, VideoSpec
from engine.video.prefix import read_prefix
from kernels.files import file_digest

BLOCKS = "blocks"
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
) -> WanGenerator:
    """The generator of a diffusers folder; None takes its default. dtype: fp32, bf16 or fp16.

    `loras` are merged into the transformer first; one that does not fit is refused with shapes alone.
    `cache` is a folder for probed kernel choices; None keeps nothing. `exported` stands in for the
    transformer, whose weights are then not read; of `denoise` only what is around it is used. `streamed`:
    "text_encoder" and "blocks" stay on the host. `capability`: of a GPU that is not here, to plan for.

    Raises ModelError when a component is missing, incomplete or of another kind, ConfigError for bad values.
    """
    settings = denoise or DenoiseSettings()
    _refuse(num_inference_steps, guidance_scale, settings, streamed, exported)
    with phase("weights" if with_weights else "modules"):
        parts = read_folder(
            folder,
            device,
            dtype,
            with_weights=with_weights,
            with_transformer=exported is None,
            streamed=frozenset(streamed),
        )
    fixed = parts.defaults.timesteps
    if fixed and num_inference_steps not in (None, len(fixed)):
        raise ConfigError(
            f"{num_inference_steps} steps are asked of a model that was distilled for {len(fixed)}",
            fix=f"leave --steps out, or remove timesteps from {folder / SIDECAR}",
        )
    steps = parts.defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
    scale = parts.defaults.guidance_scale if guidance_scale is None else guidance_scale
    if loras:
        use = merge_into if with_weights else check_names
        use(parts.transformer, loras, lora_aliases(parts.transformer))
    generator = WanGenerator(parts, EagerDenoiser(parts.transformer), steps, scale, settings)
    if with_weights:
        family = WanFamily(parts.transformer)
        made = exported or assemble(family, settings, generator.shape, cache=cache, folder=folder)
        _use(generator, made)
    elif exported is None:
        quantize_outline(WanFamily(parts.transformer), settings, parts.device, capability, folder)
    return generator


def _refuse(
    num_inference_steps: int | None,
    guidance_scale: float | None,
    settings: DenoiseSettings,
    streamed: Collection[str],
    exported: Assembled | None,
) -> None:
    if num_inference_steps is not None and num_inference_steps < 1:
        raise ConfigError(f"num_inference_steps {num_inference_steps} is below 1", fix="take at least 1 step")
    if guidance_scale is not None and guidance_scale < 1.0:
        problem = f"guidance_scale {guidance_scale} is below 1 (1 switches guidance off)"
        raise ConfigError(problem, fix="give 1 or more")
    if BLOCKS in streamed and (settings.forward != "library" or exported is not None):
        raise ConfigError(
            "memory.blocks is streamed, which only the library's forward can be",
            fix='use preset exact without --denoiser, or set memory.blocks = "device"',
        )


def _use(generator: WanGenerator, made: Assembled) -> None:
    """Its denoiser from now on, and notes on all that was chosen."""
    parts, settings = generator.parts, generator.settings
    generator.denoiser, generator.notes = made.denoiser, dict(made.notes)
    generator.denoiser_bytes, generator.scratch_bytes = made.num_bytes, made.scratch_bytes
    if settings.step_cache:
        generator.notes["step_cache"] = note_of(settings, generator.extrapolated)
    if settings.vae_chunk:
        generator.notes["vae_chunk"] = f"{settings.vae_chunk} latent frames a pass"
    if prefix := prefix_note(made.denoiser, settings.prefix_steps):
        generator.notes["prefix"] = prefix
    if parts.streamed:
        generator.notes["streamed"] = ", ".join(sorted(parts.streamed))
    if generator.fused:
        generator.notes["vae"] = f"fused: {use_fused_vae(parts.vae)} modules"


def pad_first(frames: Frames) -> Frames:
    """Repeat the *first* frame until the count is 4k + 1: the autoencoder drops what exceeds it at the end,
    which would be the frames just before the switch."""
    missing = padded(len(frames)) - len(frames)
    return np.concatenate([np.repeat(frames[:1], missing, axis=0), frames])


class WanGenerator:
    """Generator over one loaded folder. Holds no state of a job; its caches only save encoding twice."""

    def __init__(
        self,
        parts: WanParts,
        denoiser: Denoiser,
        num_inference_steps: int,
        guidance_scale: float,
        settings: DenoiseSettings | None = None,
    ) -> None:
        self.parts = parts
        self.denoiser = denoiser
        # of an exported form that stands in for the transformer: its weights, and what it holds for its steps
        self.denoiser_bytes: int | None = None
        self.scratch_bytes: int | None = None
        self.notes: dict[str, str] = {}
        self.settings = settings or DenoiseSettings()
        self.guidance_scale = guidance_scale
        # One batch-2 forward fills a GPU; on a CPU two forwards stay in its caches and are faster (measured).
        self.batched = parts.device.type == "cuda" and guidance_scale != 1.0
        self.fused = self.settings.vae == "fused"
        self.most_chunk_latents = self.settings.vae_chunk
        """Of a pass of the autoencoder, at most; 0: as `chunk_latents` finds right."""
        fixed = parts.defaults.timesteps
        self.schedule: Schedule = (
            fixed_schedule(fixed) if fixed else read_schedule(parts.scheduler, num_inference_steps)
        )
        self.extrapolated = steps_to_extrapolate(self.schedule.timesteps, self.settings, parts.folder)
        self.negatives: Recent[Tensor] = Recent(REMEMBERED)
        self.prefixes: Recent[Tensor] = Recent(REMEMBERED)

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
        shape = latent_shape(self.parts.vae, self.spec)
        tokens = num_tokens(self.parts, shape)
        return Shape(
            batch=2 if self.batched else 1,
            tokens=tokens,
            text_tokens=self.parts.max_text_tokens,
            prefix_tokens=tokens // shape[2] * latent_frames_of(padded(self.spec.prefix_frames)),
        )

    @property
    def forward_sizes(self) -> dict[str, int]:
        """Latent frames F, latent pixels h and w, and text tokens L of one forward: what is exported for."""
        _, _, frames, height, width = latent_shape(self.parts.vae, self.spec)
        return {"F": frames, "h": height, "w": width, "L": self.parts.max_text_tokens}

    @property
    def has_single_rows(self) -> bool:
        """Whether some forwards have one row of text: without batched guidance, or from the gate on."""
        gate = gate_step(self.schedule.num_steps, self.settings.cfg_gate)
        return not self.batched or gate is not None

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

    def start(self, scenario: Scenario, prompt: Prompt) -> WanJob:
        """A job of 1 encode step, N denoise steps and the decode steps. Reads the prefix file now.

        Raises VideoError when the prefix is unreadable or too short, ModelError when a text is too long.
        """
        key = (scenario.id, _digest(scenario.prefix.path))
        latents = self.prefixes.get(key)
        frames = pad_first(read_prefix(scenario.prefix, self.spec)) if latents is None else None
        request = Request(
            prefix_key=key,
            prefix=frames,
            prefix_latents=latents,
            token_ids=token_ids(self.parts, prompt.text),
            negative=prompt.negative,
            negative_ids=token_ids(self.parts, prompt.negative),
            seed=prompt.seed,
        )
        return WanJob(self, request)


def _digest(path: Path) -> str:
    """sha256 of the file, or "" when there is none: reading the frames then says what is wrong."""
    return file_digest(path) if path.is_file() else ""
