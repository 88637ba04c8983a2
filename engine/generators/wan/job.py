"""A take as a job of steps: encode, denoise, decode. How the latents come to be is its rollout's.

Modules come from the library, the loop is ours. Invariant: pixels depend on prefix, text, negative text and
seed alone: not on the order of jobs or what ran before. What a job remembers between its steps dies with it.
P prefix frames . F latent frames in all . Z channels . h, w latent pixels
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.autoencoder.memory import latent_shape, padded, to_uint8, total_frames
from engine.autoencoder.vae import decode_in_chunks, denormalise, latent_frames_of, num_chunks
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import GuidedText
from engine.generators.wan.rollout import Rollout
from engine.generators.wan.text import embed
from engine.machine.device import to_device
from engine.machine.streams import fence
from engine.protocols import Fence
from engine.types import Frames, Video

if TYPE_CHECKING:
    from engine.generators.wan.generator import WanGenerator

ENCODE, DENOISE, VAE_PASS = "encode", "denoise step", "VAE pass"
"""Stages of a job."""


def pad_first(frames: Frames) -> Frames:
    """Repeat the *first* frame until the count is 4k + 1: the autoencoder drops what exceeds it at the end,
    which would be the frames just before the switch."""
    missing = padded(len(frames)) - len(frames)
    return np.concatenate([np.repeat(frames[:1], missing, axis=0), frames])


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
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

    def __init__(self, generator: WanGenerator, request: Request) -> None:
        self._generator = generator
        self._request = request
        self._padded_prefix = padded(generator.spec.prefix_frames)
        self._chunk_latents = generator.chunk_latents(generator.spec)
        self._decoded: list[Tensor] = []  # uint8 [t, H, W, 3], on the host
        self._watch = FiniteWatch()
        latent_frames = latent_frames_of(total_frames(generator.spec))
        self._passes = num_chunks(generator.parts.vae, latent_frames, self._chunk_latents)
        self._steps_left = 1 + generator.num_steps + self._passes
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
        if len(parts.transformers) > 1:
            modules["transformer_2"] = parts.transformers[1]
        self._watch.require(modules, parts.vae.dtype)
        frames = torch.cat(self._decoded).numpy()
        return Video(frames=frames, fps=self._generator.spec.fps)

    def _run(self) -> Generator[None, None, None]:
        parts, rollout = self._generator.parts, self._rollout()
        self._stage = DENOISE
        yield
        for left in rollout.steps():
            self.num_denoised += 1
            self._steps_left = 1 + left + self._passes
            if left == 0:
                self._stage = VAE_PASS
            yield
        latents = denormalise(parts.vae, rollout.latents.to(parts.vae.dtype))
        del rollout  # its history is as large as num_steps latents
        prefix = self._padded_prefix
        for pixels in decode_in_chunks(parts.vae, latents, self._chunk_latents, first_frame=prefix):
            if pixels.shape[2]:  # a chunk of the prefix alone has no frame of the take
                self._watch.note("decoding the latents", pixels)
                self._decoded.append(to_uint8(pixels).to("cpu", non_blocking=True))  # torch pins the copy
            yield

    def _rollout(self) -> Rollout:
        text = self._encode_text()
        return self._generator.rollout(text, self._noise(), self._encode_prefix(), self._watch)

    def _encode_text(self) -> GuidedText:
        generator, request = self._generator, self._request
        uncond = None
        if generator.is_guided:
            uncond = generator.negatives.get(request.negative)
            if uncond is None:
                uncond = embed(generator.parts, request.negative_ids)
                generator.negatives.put(request.negative, uncond)
        return GuidedText(cond=embed(generator.parts, request.token_ids), uncond=uncond)

    def _encode_prefix(self) -> Tensor:
        """What the variant makes of the prefix, float32."""
        generator, parts = self._generator, self._generator.parts
        if self._request.prefix_latents is not None:
            return self._request.prefix_latents
        assert self._request.prefix is not None
        host = torch.from_numpy(self._request.prefix)  # uint8 [P, H, W, 3]
        pixels = to_device(host, parts.device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
        pixels = pixels.to(parts.vae.dtype)  # those in float32 are not kept
        encoded = parts.variant.conditioning.encode(parts.vae, pixels, parts.spec, self._chunk_latents)
        self._watch.note("encoding the prefix", encoded)
        generator.prefixes.put(self._request.prefix_key, encoded)
        return encoded

    def _noise(self) -> Tensor:
        """Initial noise from a host generator seeded by the prompt alone: the same on every device."""
        parts = self._generator.parts
        source = torch.Generator().manual_seed(self._request.seed)
        shape = latent_shape(parts.vae, parts.spec)
        return to_device(torch.randn(shape, generator=source, dtype=torch.float32), parts.device)
