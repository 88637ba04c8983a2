"""One Cosmos3 take as a job of steps: text and prefix encoded, noise denoised behind it, latents decoded.

Knows no scheduler of jobs. Invariant: `launch` enqueues and returns.
K latent frames of the prefix . F latent frames in all . Z channels . h, w latent pixels
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.autoencoder.memory import latent_shape, padded, to_uint8
from engine.autoencoder.vae import decode_in_chunks, denormalise, encode_mode, latent_frames_of, num_chunks
from engine.denoise.early_stop import EarlyStop
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import Guidance, GuidedText, gate_step
from engine.denoise.sampler import PrefixSampler
from engine.machine.device import to_device
from engine.machine.streams import fence
from engine.protocols import Fence
from engine.types import Frames, Video

if TYPE_CHECKING:
    from engine.generators.cosmos3.generator import Cosmos3Generator

ENCODE, DENOISE, VAE_PASS = "text and prefix", "denoise step", "VAE pass"
"""Stages of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a job needs of scenario and prompt, already checked, on the host."""

    prefix_key: Hashable
    prefix: Frames | None  # [4k + 1, H, W, 3]; None when its latents are known
    prefix_latents: Tensor | None  # held here because the cache may drop them meanwhile
    token_ids: Tensor  # int64 [L]
    negative_ids: Tensor  # int64 [L']
    seed: int


class Cosmos3Job:
    """Job[Video]: the steps of `_run`, one per `launch`."""

    def __init__(self, generator: Cosmos3Generator, request: Request) -> None:
        self._generator, self._request = generator, request
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
        self._watch.require({"transformer": parts.transformer, "vae": parts.vae}, parts.vae.dtype)
        return Video(frames=torch.cat(self._decoded).numpy(), fps=self._generator.spec.fps)

    def _run(self) -> Generator[None, None, None]:
        generator, parts = self._generator, self._generator.parts
        num_steps, early = generator.schedule.num_steps, generator.settings.early_stop
        guidance = self._guidance()
        prefix = self._encode_prefix()
        sampler = PrefixSampler(generator.schedule, self._noise(), prefix, patch_px=parts.patch_px)
        self._stage = DENOISE
        yield
        result = None
        stop = EarlyStop(early) if early else None
        for step in range(num_steps):
            velocity = guidance.velocity(sampler.latents, sampler.timestep, step)
            self._watch.note(f"denoise step {step + 1} of {num_steps}", velocity)
            self.num_denoised += 1
            if stop is not None and stop.settled(preview := sampler.preview(velocity)):
                self._steps_left -= num_steps - 1 - step
                result, self._stage = preview, VAE_PASS
                yield
                break
            sampler.advance(velocity)
            if step + 1 == num_steps:
                self._stage = VAE_PASS
            yield
        result = sampler.latents if result is None else result
        latents = denormalise(parts.vae, result.to(parts.vae.dtype))
        del sampler, guidance  # their history is as large as num_steps latents
        first = self._padded_prefix
        for pixels in decode_in_chunks(parts.vae, latents, self._chunk_latents, first_frame=first):
            if pixels.shape[2]:  # a chunk of the prefix alone has no frame of the take
                self._watch.note("decoding the latents", pixels)
                self._decoded.append(to_uint8(pixels).to("cpu", non_blocking=True))  # torch pins the copy
            yield

    def _guidance(self) -> Guidance:
        generator, request = self._generator, self._request
        num_steps, settings = generator.schedule.num_steps, generator.settings
        guided = generator.guidance_scale != 1.0
        return Guidance(
            generator.denoiser,
            GuidedText(cond=request.token_ids, uncond=request.negative_ids if guided else None),
            generator.guidance_scale,
            batched=False,
            gate_step=gate_step(num_steps, settings.cfg_gate),
            cached=generator.extrapolated,
        )

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
        shape = latent_shape(parts.vae, parts.spec)
        return to_device(torch.randn(shape, generator=source, dtype=torch.float32), parts.device)
