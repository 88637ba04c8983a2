"""What a Cosmos3 generator takes of the memory of its device, by its settings. Runs nothing of a job.

Used by the outline, before a weight is read, and by the loaded generator alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from engine.autoencoder import memory
from engine.autoencoder.fp8_choice import vae_bytes
from engine.autoencoder.memory import (
    chunk_bytes,
    encode_bytes,
    latent_shape,
)
from engine.generators.cosmos3.memory import denoise_bytes, kept_text_bytes, prefill_bytes
from engine.generators.cosmos3.towers import text_tower, text_units, unique_bytes, video_units
from engine.machine.outline import bytes_of
from engine.types import Footprint, VideoSpec

if TYPE_CHECKING:
    from engine.generators.cosmos3.generator import Cosmos3Generator


def footprint(generator: Cosmos3Generator, spec: VideoSpec) -> Footprint:
    """Both towers where they are resident; reading text and prefix, a denoise step, an autoencoder's pass."""
    parts, settings = generator.parts, generator.settings
    vae, device, fused = parts.vae, parts.device, generator.fused
    shape = latent_shape(vae, spec)
    latents = 4 * math.prod(shape)
    history = (generator.schedule.num_steps + 3) * latents  # a sampler keeps noise and velocities
    chunk = chunk_latents(generator, spec)
    text, units = _tower_bytes(parts.transformer, "text_encoder" in parts.streamed)
    held = {
        "generation tower": _video_bytes(parts.transformer, "blocks" in parts.streamed),
        "text tower": text,
        "autoencoder": vae_bytes(vae, settings.vae, parts.folder),
    }
    texts = kept_text_bytes(parts, settings)  # made by the first job that reads them
    # frames that are done go to the host, which a CPU is itself; they are there twice when they are joined
    done = 2 * spec.num_frames * spec.height * spec.width * 3 if device.type == "cpu" else 0
    passes = chunk_bytes(vae, device, spec, chunk, fused=fused)
    return Footprint(
        held=held,
        working={
            "text": texts + units + prefill_bytes(parts),
            "prefix": texts + encode_bytes(vae, device, spec, chunk, fused=fused),
            "denoise step": texts + history + denoise_bytes(parts, shape, spec, settings),
            "autoencoder pass": texts + latents + passes + done,
        },
    )


def chunk_latents(generator: Cosmos3Generator, spec: VideoSpec) -> int:
    """Latent frames per pass of the autoencoder."""
    parts = generator.parts
    return memory.chunk_latents(
        generator.most_chunk_latents,
        parts.vae,
        parts.device,
        spec,
        fused=generator.fused,
        step_bytes=lambda: denoise_bytes(parts, latent_shape(parts.vae, spec), spec, generator.settings),
    )


def _tower_bytes(transformer: Any, streamed: bool) -> tuple[int, int]:
    """What of the text tower stays on the device, and what visits it at once: two units, since the next may
    come before the last one is freed."""
    whole = unique_bytes(text_tower(transformer))
    if not streamed:
        return whole, 0
    units = [*text_units(transformer)]
    away = unique_bytes([*units, transformer.embed_tokens])
    return whole - away, 2 * _largest(iter(units))


def _video_bytes(transformer: Any, streamed: bool) -> int:
    """All but the text tower; where it is streamed, what stays, and two units."""
    whole = unique_bytes([transformer]) - unique_bytes(text_tower(transformer))
    if not streamed:
        return whole
    units = [*video_units(transformer)]
    return whole - unique_bytes(units) + 2 * _largest(iter(units))


def _largest(units: Iterator[nn.Module]) -> int:
    return max((bytes_of(unit) for unit in units), default=0)
