"""What a Wan generator takes of the memory of its device, by its settings. Runs nothing of a job.

Used by the outline, before a weight is read, and by the loaded generator alike. S tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from engine.autoencoder import memory
from engine.autoencoder.fp8_choice import vae_bytes
from engine.autoencoder.memory import (
    chunk_bytes,
    encode_bytes,
    latent_shape,
)
from engine.denoise.assemble import GRAPHED_TOKENS
from engine.denoise.take import smaller
from engine.generators.wan.memory import prefix_bytes, text_bytes
from engine.machine.memory import GRAPHS
from engine.machine.outline import bytes_of
from engine.types import Footprint, ScoutForm, VideoSpec

BATCH_SIZES = 4
"""Of graphs where scouts share forwards, seldom more: as many as are asked, an even share of a stage, or one
less of either."""

if TYPE_CHECKING:
    from engine.generators.wan.generator import WanGenerator


def footprint(generator: WanGenerator, spec: VideoSpec, *, together: int = 1) -> Footprint:
    """Models and pools of graphs; encoding the prefix, a denoise step, a pass of the autoencoder. `together`:
    scouts that share a forward, each with no more steps than a take."""
    parts, settings = generator.parts, generator.settings
    latents = 4 * math.prod(latent_shape(parts.vae, spec))
    # a sampler keeps noise and velocities
    history = (generator.schedule.num_steps + 3) * latents + parts.variant.run.kept_bytes(parts, spec)
    batch = 2 if generator.batched else 1
    step = parts.variant.run.denoise_bytes(parts, spec, batch, settings)
    text = text_bytes(parts, batch, settings)
    exported = generator.denoiser_bytes is not None
    prefix = prefix_bytes(parts, spec, settings, guided=generator.is_guided, exported=exported)
    history, step, text, prefix = (together * one for one in (history, step, text, prefix))
    chunk = chunk_latents(generator, spec)
    encoding = encode_bytes(
        parts.vae,
        parts.device,
        spec,
        chunk,
        fused=generator.fused,
        num_frames=parts.variant.conditioning.encoded_frames(spec),
    )
    encoder = parts.text_encoder.encoder
    held = {
        **_transformer_bytes(generator),
        "autoencoder": vae_bytes(parts.vae, settings.vae, parts.folder),
        "text encoder": _held_bytes(
            parts.text_encoder,
            encoder.block,
            streamed="text_encoder" in parts.streamed,
            table=encoder.embed_tokens,
        ),
    }
    if generator.scratch_bytes is not None:
        held["denoiser's scratch"], step = generator.scratch_bytes, latents * batch
    if graphs := _num_graphs(generator) * (1 if together == 1 else BATCH_SIZES):
        # they share their pool, and each has inputs of its own; what warms them up comes out of a stream's
        held[GRAPHS] = step + graphs * (text + prefix)
    # frames that are done go to the host, which a CPU is itself; they are there twice when they are joined
    done = (
        (together + 1) * spec.num_frames * spec.height * spec.width * 3 if parts.device.type == "cpu" else 0
    )
    return Footprint(
        held=held,
        working={
            "prefix and text": encoding + text,
            "denoise step": history + step + text + prefix,
            "autoencoder pass": together * latents
            + chunk_bytes(parts.vae, parts.device, spec, chunk, fused=generator.fused)
            + done,
        },
    )


def with_scouts(generator: WanGenerator, spec: VideoSpec, form: ScoutForm) -> Footprint:
    """Of takes, and scouts of this form beside: never both at once, but for graphs, which stay."""
    takes = footprint(generator, spec)
    maker = generator if form.shrink == 1 else generator.in_size(form.shrink)
    scouts = footprint(maker, smaller(spec, form.shrink), together=form.together)
    held = {name: max(count, scouts.held.get(name, 0)) for name, count in takes.held.items()}
    if GRAPHS in held:
        held[GRAPHS] = takes.held[GRAPHS] + scouts.held[GRAPHS]
    return Footprint(
        held=held, working={name: max(count, scouts.working[name]) for name, count in takes.working.items()}
    )


def chunk_latents(generator: WanGenerator, spec: VideoSpec) -> int:
    """Latent frames per pass of the autoencoder."""
    parts = generator.parts
    return memory.chunk_latents(
        generator.most_chunk_latents,
        parts.vae,
        parts.device,
        spec,
        fused=generator.fused,
        step_bytes=lambda: parts.variant.run.denoise_bytes(
            parts, spec, 2 if generator.batched else 1, generator.settings
        ),
    )


def _transformer_bytes(generator: WanGenerator) -> dict[str, int]:
    """Of each that is on the device: of two that take turns the first."""
    if generator.denoiser_bytes is not None:
        return {"transformer": generator.denoiser_bytes}
    parts, names = generator.parts, ("transformer", "second transformer")
    count = 1 if "experts" in parts.streamed else len(parts.transformers)
    return {
        name: _held_bytes(one, one.blocks, streamed="blocks" in parts.streamed)
        for name, one in zip(names, parts.transformers[:count], strict=False)
    }


def _held_bytes(model: Any, blocks: Any, *, streamed: bool, table: Any = None) -> int:
    """Of a streamed model what stays, and two blocks: the next may come before the last one is freed."""
    if not streamed:
        return bytes_of(model)
    sizes = [bytes_of(block) for block in blocks]
    away = sum(sizes) + (0 if table is None else bytes_of(table))
    return bytes_of(model) - away + 2 * max(sizes, default=0)


def _num_graphs(generator: WanGenerator) -> int:
    """Of the forwards of a take that differ in shape, in the blocks whose attention is 8-bit, or in whether
    hidden states are a result."""
    settings, shape = generator.settings, generator.shape
    if settings.forward == "library" or generator.parts.device.type != "cuda" or settings.graphs == "off":
        return 0
    if not generator.parts.variant.family(generator.parts.transformer).has_graphs:
        return 0
    if settings.graphs == "auto" and shape.batch * shape.tokens > GRAPHED_TOKENS:
        return 0
    rows = 2 if generator.batched and generator.has_single_rows else 1
    places = 1 if "experts" in generator.parts.streamed else len(generator.parts.transformers)
    observed = 2 if generator.sites is not None else 1
    return places * rows * observed * (2 if settings.quantized_attention else 1)
