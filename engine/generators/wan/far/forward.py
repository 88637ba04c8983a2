"""AnyFlow-FAR's transformer over our blocks: one chunk of tokens at a time behind remembered keys and values.

A chunk never looks at a later one, so the context is made chunk by chunk, without masks: each kernel of ours
can do it. What an older chunk leaves when it is compressed is computed once, only what changes is computed
again. Keys are kept with their rotary embedding, since a frame's position does not change.
A heads . D head size . N tokens of the context . S tokens at work . C channels . Z latent channels
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from diffusers import AnyFlowFARTransformer3DModel
from torch import Tensor, nn

from engine.denoise.layers import BoundAttention, ElementWise, as_tensor
from engine.denoise.recent import Recent
from engine.generators.wan.block import FastBlock
from engine.generators.wan.far.chunks import QUERY_BLOCK, context_tokens, num_compressed
from engine.generators.wan.far.library import Interval
from engine.generators.wan.forward import TextKeys, TimeRows, as_tokens, unpatchify

REMEMBERED_TIMES = 64
CLEAN = Interval(start=0.0, end=0.0)


@dataclass(slots=True, kw_only=True)
class FarContext:
    """Keys and values of every block, [1, A, N, D], in one buffer each, where a chunk at work finds in one
    piece all that it may look at:

        zeros . last chunk . the one before . compressed chunks, oldest first . own

    `origin` is where the compressed ones begin, `tail` where they end, and `head` where all begins.
    """

    keys: list[Tensor]
    values: list[Tensor]
    origin: int
    head: int
    tail: int
    num_compressed: int = 0  # chunks
    num_frames: int = 0  # of all chunks in it
    total_frames: int  # of the take


class Entered(nn.Module):
    """Of a block what comes before its attention, to be compiled in one piece."""

    def __init__(self, block: FastBlock) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, h: Tensor, pending: Tensor | None, gate: Tensor | None, rows: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(h, queries, keys, values)"""
        h, n, n_scale = self.block.enter(h, pending, gate, self.block.modulation(rows), 0)
        return (h, *self.block.projected(n, n_scale, h.dtype, cos, sin))


class Left(nn.Module):
    """Of a block what comes behind its attention."""

    def __init__(self, block: FastBlock) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, h: Tensor, out: Tensor, rows: Tensor, text_keys: Tensor, text_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.block.leave(h, out, self.block.modulation(rows), text_keys, text_values, 0)


class FarWan(nn.Module):
    """Over the modules of one AnyFlowFARTransformer3DModel, whose parameters it shares."""

    def __init__(
        self,
        transformer: AnyFlowFARTransformer3DModel,
        *,
        element_wise: ElementWise,
        attention: BoundAttention,
        cross_attention: BoundAttention,
    ) -> None:
        super().__init__()
        self.config = transformer.config
        self.embed, self.rope = transformer.condition_embedder, transformer.rope
        self.patch, self.compressed_patch = transformer.patch_embedding, transformer.far_patch_embedding
        self.patch_size: tuple[int, int, int] = tuple(transformer.config.patch_size)
        blocks = [
            FastBlock(
                block,
                element_wise=element_wise,
                attention=attention,
                quantized_attention=attention,
                cross_attention=cross_attention,
            )
            for block in transformer.blocks
        ]
        self.blocks = nn.ModuleList(half for block in blocks for half in (Entered(block), Left(block)))
        """Both halves of each: attention between them sees a context of another length at every chunk."""
        self.attention, self.ops = attention, element_wise
        self.table, self.proj_out = transformer.scale_shift_table, transformer.proj_out
        self.eps = float(transformer.norm_out.eps)
        self.dtype: torch.dtype = transformer.patch_embedding.weight.dtype
        self._times: Recent[TimeRows] = Recent(REMEMBERED_TIMES)
        self._tables: Recent[tuple[Tensor, Tensor]] = Recent(2)  # whole and compressed

    def text_keys(self, text: Tensor) -> TextKeys:
        """text [1, L, text width]."""
        embedded = self.embed.text_embedder(text.to(self.dtype))
        entered = (half.block for half in self.blocks if isinstance(half, Entered))
        return TextKeys(pairs=tuple(block.text_keys(embedded) for block in entered))

    def time_rows(self, times: Interval) -> TimeRows:
        """One row: all tokens at work have the same timesteps."""
        key: Hashable = times
        rows = self._times.get(key)
        if rows is None:
            rows = self._compute_rows(times)
            self._times.put(key, rows)
        return rows

    def embedded(self, latents: Tensor, *, compressed: bool) -> Tensor:
        """[1, S, C] of [1, Z, f, h, w]."""
        return as_tokens(self.compressed_patch if compressed else self.patch, latents.to(self.dtype), 1)

    def through(
        self, h: Tensor, rows: TimeRows, text: TextKeys, rotary: tuple[Tensor, Tensor], place: _Place
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """[1, S, C] through all blocks, their keys and values left in the context."""
        pending = gate = None
        pairs: Iterable[tuple[tuple[Tensor, Tensor], nn.Module, nn.Module]] = zip(
            text.pairs, self.blocks[::2], self.blocks[1::2], strict=True
        )
        for layer, ((text_keys, text_values), entered, left) in enumerate(pairs):
            h, q, k, v = entered(h, pending, gate, rows.block, *rotary)
            keys, values = place.put(layer, k, v)
            out = self.attention.run(q, keys, values, scale=q.shape[-1] ** -0.5)
            h, pending, gate = left(h, out.transpose(1, 2).flatten(2), rows.block, text_keys, text_values)
        return h, pending, gate

    def predicted(
        self, h: Tensor, pending: Tensor | None, gate: Tensor | None, rows: TimeRows, shape: torch.Size
    ) -> Tensor:
        """Velocity fp32 [1, Z, f, h, w] of what came through the blocks."""
        shift, scale = rows.out.unbind(2)
        _, n, _ = self.ops.residual_norm(
            h, pending, gate, scale=scale, shift=shift, split=0, eps=self.eps, quantize=None
        )
        return unpatchify(self.proj_out(n), shape, self.patch_size).float()

    def rotary(
        self, latents: Tensor, frames: tuple[int, int, int], *, compressed: bool
    ) -> tuple[Tensor, Tensor]:
        """Tables fp32 [1, S, 1, D] of the frames from and to, of so many in all."""
        start, end, total = frames
        height, width = latents.shape[3:]
        full, small = (self.grid(height, width, compressed=c) for c in (False, True))
        key = (full, total, compressed)
        tables = self._tables.get(key)
        if tables is None:
            layout = {
                "total_frames": total,
                "full_frame_shape": full,
                "compressed_frame_shape": small,
                "num_compressed_frames": total if compressed else 0,
            }
            angles = self.rope(far_cfg=layout, device=latents.device)["key"][0, 0]  # complex [S, D / 2]
            cos, sin = (
                part.float().repeat_interleave(2, dim=-1)[None, :, None].contiguous()
                for part in (angles.real, angles.imag)
            )
            tables = (cos, sin)
            self._tables.put(key, tables)
        num_tokens = math.prod(small if compressed else full)
        cos, sin = (table[:, start * num_tokens : end * num_tokens] for table in tables)
        return cos, sin

    def grid(self, height: int, width: int, *, compressed: bool) -> tuple[int, int]:
        patch = self.config.compressed_patch_size if compressed else self.patch_size
        return height // patch[1], width // patch[2]

    def _compute_rows(self, times: Interval) -> TimeRows:
        embed, device = self.embed, self.table.device
        delta = times.end if embed.deltatime_type == "r" else times.start - times.end
        made = []
        for value, embedder in ((times.start, embed.time_embedder), (delta, embed.delta_embedder)):
            hidden = embed.timesteps_proj(torch.full((1,), value, device=device))
            made.append(embedder(hidden.to(next(embedder.parameters()).dtype)).to(self.dtype))
        gate = embed.delta_emb_gate.to(next(embed.delta_embedder.parameters()).dtype)
        both = (1 - gate) * made[0] + gate * made[1]  # [1, C]
        projected = embed.time_proj(embed.act_fn(both)).unflatten(1, (6, -1))
        return TimeRows(
            block=projected.float()[None].contiguous(),
            out=(self.table.float() + both[:, None].float())[None].contiguous(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where keys and values of the tokens at work go, and what they may look at."""

    context: FarContext
    at: int
    first: int
    past: int

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        seen = []
        for buffer, own in ((self.context.keys[layer], keys), (self.context.values[layer], values)):
            buffer[:, :, self.at : self.at + own.shape[2]] = own
            seen.append(buffer[:, :, self.first : self.past])
        return as_tensor(seen[0]), as_tensor(seen[1])


class FarDenoiser:
    """`engine.generators.wan.far.rollout.ChunkModel` over FarWan."""

    def __init__(self, far: FarWan) -> None:
        self.far = far

    def prepare(self, text: Tensor) -> TextKeys:
        return self.far.text_keys(text)

    def remember(
        self,
        latents: Tensor,
        chunks: Sequence[int],
        count: int,
        text: TextKeys,
        context: FarContext | None,
    ) -> FarContext:
        """What is compressed already is left as it is."""
        context = self._empty(latents, chunks) if context is None else context
        old = num_compressed(count, self.far.config.full_chunk_limit)
        for index in range(context.num_compressed, old):
            h = self._embedded(latents, chunks, index, compressed=True)
            place = _Place(
                context=context, at=context.tail, first=context.origin, past=context.tail + h.shape[1]
            )
            self._pass(h, latents, chunks, index, text, place, compressed=True)
            context.tail = place.past
        context.num_compressed, context.head = old, context.origin
        for index in range(old, count):
            h = self._embedded(latents, chunks, index, compressed=False)
            context.head -= h.shape[1]
            place = _Place(context=context, at=context.head, first=context.head, past=context.tail)
            self._pass(h, latents, chunks, index, text, place, compressed=False)
        num_zeros = -self._num_tokens(latents, chunks[count], compressed=False) % QUERY_BLOCK
        for buffer in (*context.keys, *context.values):
            buffer[:, :, context.head - num_zeros : context.head].zero_()
        context.head -= num_zeros
        context.num_frames = sum(chunks[:count])
        return context

    def velocity(self, latents: Tensor, times: Interval, text: TextKeys, context: FarContext) -> Tensor:
        far, start = self.far, context.num_frames
        h = far.embedded(latents, compressed=False)
        place = _Place(context=context, at=context.tail, first=context.head, past=context.tail + h.shape[1])
        rows = far.time_rows(times)
        frames = start, start + latents.shape[2], context.total_frames
        rotary = far.rotary(latents, frames, compressed=False)
        return far.predicted(*far.through(h, rows, text, rotary, place), rows, latents.shape)

    def _embedded(self, latents: Tensor, chunks: Sequence[int], index: int, *, compressed: bool) -> Tensor:
        start, end = sum(chunks[:index]), sum(chunks[: index + 1])
        return self.far.embedded(latents[:, :, start:end], compressed=compressed)

    def _pass(
        self,
        h: Tensor,
        latents: Tensor,
        chunks: Sequence[int],
        index: int,
        text: TextKeys,
        place: _Place,
        *,
        compressed: bool,
    ) -> None:
        frames = sum(chunks[:index]), sum(chunks[: index + 1]), sum(chunks)
        rotary = self.far.rotary(latents, frames, compressed=compressed)
        self.far.through(h, self.far.time_rows(CLEAN), text, rotary, place)

    def _num_tokens(self, latents: Tensor, num_frames: int, *, compressed: bool) -> int:
        height, width = self.far.grid(*latents.shape[3:], compressed=compressed)
        return num_frames * height * width

    def _empty(self, latents: Tensor, chunks: Sequence[int]) -> FarContext:
        """Room for all that a take of these chunks looks at."""
        config = self.far.config
        sizes = context_tokens(
            chunks,
            config.full_chunk_limit,
            self._num_tokens(latents, 1, compressed=False),
            self._num_tokens(latents, 1, compressed=True),
        )
        size = (1, config.num_attention_heads, sum(sizes), config.attention_head_dim)
        keys, values = (
            [torch.zeros(size, dtype=self.far.dtype, device=latents.device) for _ in range(config.num_layers)]
            for _ in range(2)
        )
        return FarContext(
            keys=keys,
            values=values,
            origin=sizes[0],
            head=sizes[0],
            tail=sizes[0],
            total_frames=sum(chunks),
        )
