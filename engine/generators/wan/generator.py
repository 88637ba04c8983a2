"""The Wan family with per-token timesteps: a clean prefix of many frames, the rest denoised behind it.

Modules come from the library, the loop is ours. Knows no critic, no attempts, no reference clip. Invariant:
pixels depend on prefix, text, negative text and seed alone: not on the order of jobs or what ran before.
P prefix frames . K latent frames of the prefix . F latent frames in all . Z channels . h, w latent pixels
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.denoise.assemble import Assembled, assemble, quantize_outline
from engine.denoise.early_stop import EarlyStop
from engine.denoise.family import Shape
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import Guidance, GuidedText, cached_steps, gate_step
from engine.denoise.lora import Lora, check_names, merge_into
from engine.denoise.lora_grid import grid_of
from engine.denoise.recent import Recent
from engine.denoise.sampler import PrefixSampler, Schedule, fixed_schedule, read_schedule
from engine.errors import ConfigError
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.family import WanFamily
from engine.generators.wan.folder import WanParts, on_the_grid_of, read_folder
from engine.generators.wan.footprint import chunk_latents, footprint
from engine.generators.wan.lora_names import lora_aliases
from engine.generators.wan.memory import latent_shape, num_tokens, padded, to_uint8
from engine.generators.wan.settings import WanDefaults
from engine.generators.wan.text import embed, to_device, token_ids
from engine.generators.wan.vae import (
    decode_in_chunks,
    denormalise,
    encode_mode,
    latent_frames_of,
    num_chunks,
)
from engine.generators.wan.vae_fused import use_fused_vae
from engine.machine.streams import fence
from engine.protocols import Denoiser, Fence
from engine.settings.presets import DenoiseSettings
from engine.settings.sidecars import SIDECAR
from engine.types import Footprint, Frames, Prompt, Scenario, Video, VideoSpec
from engine.video.prefix import read_prefix
from kernels.files import file_digest

BLOCKS = "blocks"
ENCODE, DENOISE, VAE_PASS = "encode", "denoise step", "VAE pass"
"""Stages of a job."""
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
    parts = read_folder(
        folder,
        device,
        dtype,
        with_weights=with_weights,
        with_transformer=exported is None,
        streamed=frozenset(streamed),
    )
    parts = on_the_grid_of(parts, grid_of(loras))
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
    if settings.vae_chunk:
        generator.notes["vae_chunk"] = f"{settings.vae_chunk} latent frames a pass"
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
        return Shape(
            batch=2 if self.batched else 1,
            tokens=num_tokens(self.parts, latent_shape(self.parts, self.spec)),
            text_tokens=self.parts.max_text_tokens,
        )

    @property
    def forward_sizes(self) -> dict[str, int]:
        """Latent frames F, latent pixels h and w, and text tokens L of one forward: what is exported for."""
        _, _, frames, height, width = latent_shape(self.parts, self.spec)
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
        request = _Request(
            prefix_key=key,
            prefix=frames,
            prefix_latents=latents,
            token_ids=token_ids(self.parts, prompt.text),
            negative=prompt.negative,
            negative_ids=token_ids(self.parts, prompt.negative),
            seed=prompt.seed,
        )
        return WanJob(self, request)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What a job needs of scenario and prompt, already checked, on the host."""

    prefix_key: Hashable
    prefix: Frames | None  # [4k + 1, H, W, 3]; None when its latents are known
    prefix_latents: Tensor | None  # held here because the cache may drop them meanwhile
    token_ids: Tensor  # int64 [1, n]
    negative: str
    negative_ids: Tensor
    seed: int


class WanJob:
    """Job[Video]: the steps of `_run`, one per `launch`."""

    def __init__(self, generator: WanGenerator, request: _Request) -> None:
        self._generator = generator
        self._request = request
        self._padded_prefix = padded(generator.spec.prefix_frames)
        self._chunk_latents = generator.chunk_latents(generator.spec)
        self._decoded: list[Tensor] = []  # uint8 [t, H, W, 3], on the host
        self._watch = FiniteWatch()
        latent_frames = latent_frames_of(self._padded_prefix + generator.spec.num_frames)
        passes = num_chunks(generator.parts.vae, latent_frames, self._chunk_latents)
        self._steps_left = 1 + generator.schedule.num_steps + passes
        self._stage = ENCODE
        self.num_denoised = 0  # steps that the denoiser has taken
        self._steps = self._run()

    @property
    def steps_left(self) -> int:
        return self._steps_left

    @property
    def stage(self) -> str:
        return self._stage

    def launch(self) -> Fence:
        """Enqueue the next step on the current stream of the generator's device; never waits for it."""
        assert self._steps_left > 0, "the job is finished"
        with torch.inference_mode():
            next(self._steps)
        self._steps_left -= 1
        if self._steps_left == 0:
            self._steps.close()  # the next job need not have what the autoencoder looks back on, a gigabyte
        return fence(self._generator.parts.device)

    def result(self) -> Video:
        """The continuation without its prefix, once the last fence is over: frames are on the host before it.

        Raises NotFinite where a step made values that are no numbers.
        """
        assert self._steps_left == 0, f"{self._steps_left} steps left"
        parts = self._generator.parts
        modules = {
            "transformer": parts.transformer,
            "text_encoder": parts.text_encoder,
            "vae": parts.vae,
        }
        self._watch.require(modules, parts.vae.dtype)
        frames = torch.cat(self._decoded).numpy()
        return Video(frames=frames, fps=self._generator.spec.fps)

    def _run(self) -> Generator[None, None, None]:
        generator, parts = self._generator, self._generator.parts
        guidance = self._guidance()
        sampler = PrefixSampler(
            generator.schedule,
            self._noise(),
            self._encode_prefix(),
            patch_px=parts.transformer.config.patch_size[1],
        )
        self._stage = DENOISE
        yield
        result = None
        stop = EarlyStop(generator.settings.early_stop) if generator.settings.early_stop else None
        for step in range(generator.schedule.num_steps):
            velocity = guidance.velocity(sampler.latents, sampler.timestep, step)
            self._watch.note(f"denoise step {step + 1} of {generator.schedule.num_steps}", velocity)
            self.num_denoised += 1
            if stop is not None and stop.settled(preview := sampler.preview(velocity)):
                self._steps_left -= generator.schedule.num_steps - 1 - step
                result, self._stage = preview, VAE_PASS
                yield
                break
            sampler.advance(velocity)
            if step + 1 == generator.schedule.num_steps:
                self._stage = VAE_PASS
            yield
        result = sampler.latents if result is None else result
        latents = denormalise(parts.vae, result.to(parts.vae.dtype))
        del sampler, guidance  # their history is as large as num_steps latents
        prefix = self._padded_prefix
        for pixels in decode_in_chunks(parts.vae, latents, self._chunk_latents, first_frame=prefix):
            if pixels.shape[2]:  # a chunk of the prefix alone has no frame of the take
                self._watch.note("decoding the latents", pixels)
                self._decoded.append(to_uint8(pixels).to("cpu", non_blocking=True))  # torch pins the copy
            yield

    def _guidance(self) -> Guidance:
        generator, settings = self._generator, self._generator.settings
        num_steps = generator.schedule.num_steps
        return Guidance(
            generator.denoiser,
            self._encode_text(),
            generator.guidance_scale,
            batched=generator.batched,
            gate_step=gate_step(num_steps, settings.cfg_gate),
            cached=cached_steps(num_steps, settings.step_cache),
        )

    def _encode_text(self) -> GuidedText:
        generator, request = self._generator, self._request
        uncond = None
        if generator.guidance_scale != 1.0:
            uncond = generator.negatives.get(request.negative)
            if uncond is None:
                uncond = embed(generator.parts, request.negative_ids)
                generator.negatives.put(request.negative, uncond)
        return GuidedText(cond=embed(generator.parts, request.token_ids), uncond=uncond)

    def _encode_prefix(self) -> Tensor:
        """Normalised clean latents of the prefix, float32 [1, Z, K, h, w]."""
        generator, parts = self._generator, self._generator.parts
        if self._request.prefix_latents is not None:
            return self._request.prefix_latents
        assert self._request.prefix is not None
        host = torch.from_numpy(self._request.prefix)  # uint8 [P, H, W, 3]
        pixels = to_device(host, parts.device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
        pixels = pixels.to(parts.vae.dtype)  # those in float32 are not kept
        latents = encode_mode(parts.vae, pixels, self._chunk_latents).float()
        self._watch.note("encoding the prefix", latents)
        generator.prefixes.put(self._request.prefix_key, latents)
        return latents

    def _noise(self) -> Tensor:
        """Initial noise from a host generator seeded by the prompt alone: the same on every device."""
        parts = self._generator.parts
        source = torch.Generator().manual_seed(self._request.seed)
        shape = latent_shape(parts, parts.spec)
        return to_device(torch.randn(shape, generator=source, dtype=torch.float32), parts.device)


def _digest(path: Path) -> str:
    """sha256 of the file, or "" when there is none: reading the frames then says what is wrong."""
    return file_digest(path) if path.is_file() else ""
