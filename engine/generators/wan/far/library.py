"""The library's AnyFlow-FAR transformer, chunk by chunk: what a faster one is compared with.

Each pass that fills its cache fills all of it, so of a prefix one pass does, behind its last chunk.
Z latent channels . f frames of a chunk . L text tokens . D text width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AnyFlowFARTransformer3DModel
from torch import Tensor

from engine.denoise.recent import Recent
from engine.generators.wan.far.chunks import num_compressed

REMEMBERED_MASKS = 64
"""One for each number of chunks: some kilobytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Of a flow map: the velocity that is asked leads from one timestep to another, 0 to 1000."""

    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryContext:
    cache: dict[int, dict[str, Tensor]]
    partition: tuple[int, ...]


class LibraryFar:
    """`engine.generators.wan.far.rollout.ChunkModel` over the untouched module."""

    def __init__(self, transformer: AnyFlowFARTransformer3DModel) -> None:
        self._transformer = transformer
        self._dtype: torch.dtype = transformer.patch_embedding.weight.dtype
        self._masks: Recent[Any] = Recent(REMEMBERED_MASKS)

    def prepare(self, text: Tensor) -> Tensor:
        return text.to(self._dtype)

    def remember(
        self,
        latents: Tensor,
        chunks: Sequence[int],
        count: int,
        text: Tensor,
        context: LibraryContext | None,
    ) -> LibraryContext:
        """What was known before is made anew."""
        model, config, chunks = self._transformer, self._transformer.config, tuple(chunks[:count])
        given = latents.to(self._dtype).transpose(1, 2)  # [1, F, Z, h, w]
        old = num_compressed(len(chunks), config.full_chunk_limit)
        full, small = (
            (given.shape[3] // patch[1]) * (given.shape[4] // patch[2])
            for patch in (config.patch_size, config.compressed_patch_size)
        )
        shape = (2, 1, config.num_attention_heads)

        def room(num_tokens: int) -> Tensor:
            size = (*shape, num_tokens, config.attention_head_dim)
            return torch.zeros(size, dtype=self._dtype, device=given.device)

        cache = {
            layer: {
                "full_cache": room(full * sum(chunks[old:])),
                "compressed_cache": room(small * sum(chunks[:old])),
            }
            for layer in range(config.num_layers)
        }
        clean = torch.zeros(1, given.shape[1], device=given.device)
        model(
            hidden_states=given,
            timestep=clean,
            r_timestep=clean,
            encoder_hidden_states=text,
            chunk_partition=list(chunks),
            attention_mask=self._mask(chunks, given),
            kv_cache=cache,
            kv_cache_flag={"num_cached_chunks": len(chunks) - 1, "is_cache_step": True},
            return_dict=False,
        )
        return LibraryContext(cache=cache, partition=chunks)

    def velocity(self, latents: Tensor, times: Interval, text: Tensor, context: LibraryContext) -> Tensor:
        """float32 [1, Z, f, h, w] of the chunk behind the context, of the same shape."""
        given = latents.to(self._dtype).transpose(1, 2)
        start, end = (
            torch.full((1, given.shape[1]), value, device=given.device) for value in (times.start, times.end)
        )
        velocity = self._transformer(
            hidden_states=given,
            timestep=start,
            r_timestep=end,
            encoder_hidden_states=text,
            chunk_partition=[*context.partition, given.shape[1]],
            kv_cache=context.cache,
            kv_cache_flag={"num_cached_chunks": len(context.partition), "is_cache_step": False},
            return_dict=False,
        )[0]
        assert isinstance(velocity, Tensor)
        return velocity.transpose(1, 2).float()

    def _mask(self, chunks: tuple[int, ...], given: Tensor) -> Any:
        key = (chunks, tuple(given.shape[3:]), str(given.device))
        mask = self._masks.get(key)
        if mask is None:
            mask = self._transformer.build_attention_mask(
                chunk_partition=list(chunks),
                height=given.shape[3],
                width=given.shape[4],
                device=given.device,
                mode="cache",
            )
            self._masks.put(key, mask)
        return mask
