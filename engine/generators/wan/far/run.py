"""How takes of AnyFlow-FAR are denoised, and what they take of memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from engine.autoencoder.memory import latent_shape, padded, total_frames
from engine.autoencoder.vae import TEMPORAL_STRIDE, latent_frames_of
from engine.denoise.beginnings import ALL, Part
from engine.denoise.family import Shape
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import GuidedText
from engine.denoise.sampler import Schedule
from engine.denoise.states import StateTap
from engine.errors import ConfigError
from engine.generators.wan import memory
from engine.generators.wan.components import unfit
from engine.generators.wan.far.chunks import borders, context_tokens, partition_of
from engine.generators.wan.far.rollout import ChunkModel, ChunkRollout
from engine.generators.wan.settings import OWN, WanDefaults
from engine.settings.presets import DenoiseSettings
from engine.settings.sidecars import SIDECAR
from engine.types import VideoSpec

if TYPE_CHECKING:
    from engine.generators.wan.folder import WanParts
    from engine.generators.wan.generator import WanGenerator

SCORE_BYTES = 16
"""Of each pair of tokens and head: the library's attention, which is not compiled, holds scores in float32,
what becomes of them, and its mask."""
AUTO = ("auto",)


class FarRun:
    """`engine.generators.wan.variant.Run`."""

    goes_on = False

    def check(self, folder: Path, defaults: WanDefaults, config: Any) -> None:
        if defaults.prefix_attention == OWN:
            found = f"prefix_attention {OWN!r}"
            raise unfit(folder, SIDECAR, found, "none: each chunk looks at all before it")
        prefix = latent_frames_of(padded(defaults.prefix_frames))
        total = prefix + defaults.num_frames // TEMPORAL_STRIDE
        if partition_of(config.chunk_partition, prefix, total) is None:
            allowed = ", ".join(map(str, borders(config.chunk_partition, total)))
            found = f"prefix_frames {defaults.prefix_frames}, which are {prefix} latent frames"
            raise unfit(folder, SIDECAR, found, f"a prefix that ends with a chunk: {allowed}")
        multiple = 8 * config.compressed_patch_size[1]
        for side, pixels in (("width", defaults.width), ("height", defaults.height)):
            if pixels % multiple:
                raise unfit(folder, SIDECAR, f"{side} {pixels}", f"a multiple of {multiple}")

    def settings(self, given: DenoiseSettings, parts: WanParts) -> tuple[DenoiseSettings, Mapping[str, str]]:
        if given.early_stop:
            raise ConfigError(
                "early_stop ends a take by its preview, and AnyFlow-FAR takes a chunk at a time",
                fix="leave early_stop at 0",
            )
        if given.quantized_attention not in ((), AUTO):
            raise ConfigError(
                "8-bit attention has no scales for the context of AnyFlow-FAR",
                fix="leave quantized_attention out",
            )
        used = dataclasses.replace(
            given, prefix_kept=0.0, quantized_attention=(), cfg_gate=1.0, step_cache=0.0
        )
        why = {
            "prefix_kept": "what chunks look at is computed once",
            "quantized_attention": "its context has keys of other chunks, which have no common scale",
            "cfg_gate": "there is no guidance",
            "step_cache": "each velocity is of an interval of its own",
        }
        left_out = [name for name in why if getattr(used, name) != getattr(given, name)]
        return used, {name: f"off: {why[name]}" for name in left_out}

    def num_steps(self, schedule: Schedule, parts: WanParts) -> int:
        chunks, num_prefix = _partition(parts, parts.spec)
        return (len(chunks) - num_prefix) * schedule.num_steps

    def shape(self, parts: WanParts, rows: int) -> Shape:
        assert rows == 1, "there is no guidance"
        (chunks, _), (full, _) = _partition(parts, parts.spec), _frame_tokens(parts, parts.spec)
        return Shape(
            batch=1,
            tokens=max(chunks) * full,
            text_tokens=parts.max_text_tokens,
            context_tokens=_context_tokens(parts, parts.spec),
        )

    def denoise_bytes(self, parts: WanParts, spec: VideoSpec, rows: int, settings: DenoiseSettings) -> int:
        """Of our forward as of any other with so many tokens; of the library's with all scores of the largest
        pass, which fills the cache."""
        chunks, _ = _partition(parts, spec)
        full, _ = _frame_tokens(parts, spec)
        if settings.forward != "library":
            return memory.compiled_bytes(parts, max(chunks) * full)
        tokens = _context_tokens(parts, spec)
        scores = SCORE_BYTES * parts.transformer.config.num_attention_heads * tokens**2
        return memory.compiled_bytes(parts, 2 * tokens) + int(scores)

    def kept_bytes(self, parts: WanParts, spec: VideoSpec) -> int:
        """Keys and values of every block, and the rotary tables of all frames, whole and compressed."""
        config, (chunks, _) = parts.transformer.config, _partition(parts, spec)
        width = config.num_attention_heads * config.attention_head_dim
        element: int = parts.transformer.patch_embedding.weight.element_size()
        tables = 2 * 4 * config.attention_head_dim * sum(chunks) * sum(_frame_tokens(parts, spec))
        return int(2 * config.num_layers * width * element * _context_tokens(parts, spec) + tables)

    def rollout(
        self,
        generator: WanGenerator,
        text: GuidedText,
        noise: Tensor,
        encoded: Tensor,
        watch: FiniteWatch,
        part: Part = ALL,
        tap: StateTap | None = None,
    ) -> ChunkRollout:
        assert part == ALL, "the first steps of such a take are those of its first chunk"
        assert tap is None, "the variant has no states"
        chunks, _ = _partition(generator.parts, generator.spec)
        return ChunkRollout(
            cast(ChunkModel, generator.denoiser),
            text.cond,
            noise,
            encoded,
            watch,
            schedule=generator.schedule,
            chunks=chunks,
        )


def _partition(parts: WanParts, spec: VideoSpec) -> tuple[tuple[int, ...], int]:
    prefix, total = latent_frames_of(padded(spec.prefix_frames)), latent_frames_of(total_frames(spec))
    found = partition_of(parts.transformer.config.chunk_partition, prefix, total)
    assert found is not None, f"{prefix} of {total} latent frames"
    return found


def _context_tokens(parts: WanParts, spec: VideoSpec) -> int:
    chunks, _ = _partition(parts, spec)
    limit = parts.transformer.config.full_chunk_limit
    return sum(context_tokens(chunks, limit, *_frame_tokens(parts, spec)))


def _frame_tokens(parts: WanParts, spec: VideoSpec) -> tuple[int, int]:
    """Of a frame as it is, and compressed."""
    config, (_, _, _, height, width) = parts.transformer.config, latent_shape(parts.vae, spec)
    patches = (config.patch_size, config.compressed_patch_size)
    full, compressed = ((height // patch[1]) * (width // patch[2]) for patch in patches)
    return full, compressed
