"""The Wan transformer with two distinct timesteps: fast blocks between the library's own embeddings.

Time rows are computed for the timesteps 0 and t, not for every token; text keys and values once per prompt;
rotary tables once per shape. Knows no sampler and no guidance. Invariant: in fp32 with plain GEMMs it
equals the library's forward to rounding, and it holds no state of a job: the text is an argument.
N takes, 1 unless scouts share a forward . B batch, N or with both branches of guidance 2 N
Z latent channels . F, h, w latent frames and pixels . S tokens . C channels . R rows (1 or 2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from torch import Tensor, nn

from engine.denoise.layers import (
    BoundAttention,
    ElementWise,
    as_tensor,
)
from engine.denoise.recent import Recent
from engine.denoise.states import pooled
from engine.generators.wan.block import FastBlock, Pair

REMEMBERED_TIMES = 256
"""Rows of two timesteps are a few hundred KB; a schedule has at most about a hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRows:
    """Modulation of the distinct timesteps, before each block adds its own table."""

    block: Tensor  # fp32 [1, R, 6, C]
    out: Tensor  # fp32 [1, R, 2, C]: shift and scale of the last norm


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixKeys:
    """What the blocks read of the prefix, where it is not computed again."""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What one forward gives."""

    velocity: Tensor  # fp32 [B, Z, F, h, w]
    prefix: PrefixKeys  # of the tokens that were to be kept
    states: tuple[Tensor, ...]  # fp32 [M, C], `pooled` behind each block that was to be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passed:
    """What came through the blocks: `h`, and the last branch with its gate, not yet added to it."""

    h: Tensor
    pending: Tensor
    gate: Tensor
    kept: tuple[Pair, ...]
    states: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextKeys:
    """What the blocks read of one text: keys and values of each, [B, A, L, D]."""

    pairs: tuple[tuple[Tensor, Tensor], ...]

    @property
    def batch(self) -> int:
        return self.pairs[0][0].shape[0]


class FastWan(nn.Module):
    """Over the modules of one WanTransformer3DModel, whose parameters it shares."""

    def __init__(
        self,
        transformer: WanTransformer3DModel | WanVACETransformer3DModel,
        *,
        element_wise: ElementWise,
        attention: BoundAttention,
        quantized_attention: BoundAttention | None,
        cross_attention: BoundAttention,
    ) -> None:
        super().__init__()
        self.embed, self.patch, self.rope = (
            transformer.condition_embedder,
            transformer.patch_embedding,
            transformer.rope,
        )
        self.patch_size: tuple[int, int, int] = tuple(transformer.config.patch_size)
        self.control = (
            ControlBranch(transformer) if isinstance(transformer, WanVACETransformer3DModel) else None
        )
        self.num_layers = len(transformer.blocks)
        self.blocks = nn.ModuleList(
            FastBlock(
                block,
                element_wise=element_wise,
                attention=attention,
                quantized_attention=quantized_attention or attention,
                cross_attention=cross_attention,
            )
            for block in (*transformer.blocks, *(self.control.sources if self.control else ()))
        )
        """The model's, and behind them those of the control branch."""
        self.ops = element_wise
        self.table, self.proj_out = transformer.scale_shift_table, transformer.proj_out
        self.eps = float(transformer.norm_out.eps)
        self.dtype: torch.dtype = transformer.patch_embedding.weight.dtype
        self.own_prefix = any(block.own_prefix for block in self.blocks if isinstance(block, FastBlock))
        self._times: Recent[TimeRows] = Recent(REMEMBERED_TIMES)
        self._rotary: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def text_keys(self, text: Tensor) -> TextKeys:
        """text [B, L, text width]."""
        embedded = self.embed.text_embedder(text.to(self.dtype))
        pairs = tuple(block.text_keys(embedded) for block in self.blocks if isinstance(block, FastBlock))
        return TextKeys(pairs=pairs)

    def time_rows(self, value: float, *, has_prefix: bool) -> TimeRows:
        """Rows for timestep 0, where there is a prefix, and `value`; the same numbers as the library's."""
        key = (value, has_prefix)
        rows = self._times.get(key)
        if rows is None:
            rows = self._compute_rows(value, has_prefix)
            self._times.put(key, rows)
        return rows

    def forward(
        self, latents: Tensor, rows: TimeRows, text: TextKeys, *, split: int, quantized: tuple[bool, ...]
    ) -> Tensor:
        """Velocity fp32 [B, Z, F, h, w] of latents [N, Z or more, F, h, w], whose first `split` tokens are
        prefix; `quantized` says for each block whether its self-attention is the quantized one."""
        return self.keeping(latents, rows, text, split=split, quantized=quantized).velocity

    def keeping(
        self,
        latents: Tensor,
        rows: TimeRows,
        text: TextKeys,
        *,
        split: int,
        quantized: tuple[bool, ...],
        keep: int = 0,
        layers: Sequence[int] = (),
    ) -> Predicted:
        """`forward`, what its blocks read of the first `keep` tokens, and the states behind `layers`."""
        given = latents.to(self.dtype)
        h = as_tokens(self.patch, given[:, : self.patch.in_channels], text.batch)
        control = None if self.control is None else self.control.begin(given, h)
        passed = self._through_blocks(
            h, rows, text.pairs, self._rotary_tables(latents),
            control=control, split=split, quantized=quantized, keep=keep, layers=layers,
        )  # fmt: skip
        return self._predicted(passed, rows, split, latents.shape)

    def behind(
        self,
        latents: Tensor,
        rows: TimeRows,
        text: TextKeys,
        prefix: PrefixKeys,
        *,
        prefix_frames: int,
        quantized: tuple[bool, ...],
        layers: Sequence[int] = (),
    ) -> Predicted:
        """`keeping` of the tokens behind the first K latent frames alone, which read `prefix`; `rows` have no
        row of timestep 0. The velocity of the prefix is 0."""
        assert self.control is None, "a control branch has no clean prefix"
        h = as_tokens(self.patch, latents[:, :, prefix_frames:].to(self.dtype), text.batch)
        past = [(k.expand(len(h), -1, -1), v.expand(len(h), -1, -1)) for k, v in prefix.pairs]
        tables = self._rotary_tables(latents)
        passed = self._through_blocks(
            h, rows, text.pairs, tables, past=past, split=0, quantized=quantized, layers=layers
        )
        shape = torch.Size((*latents.shape[:2], latents.shape[2] - prefix_frames, *latents.shape[3:]))
        made = self._predicted(passed, rows, 0, shape)
        return replace(made, velocity=F.pad(made.velocity, (0, 0, 0, 0, prefix_frames, 0)))

    def own_prefix_keys(self, latents: Tensor, prefix_frames: int) -> PrefixKeys:
        """What the blocks read of a prefix that looks at itself alone: the same at every step of a take.
        `latents` [N, Z, F, h, w], of which the first K frames are read, which are of one prefix. Attention is
        exact."""
        assert self.own_prefix, "the prefix of this transformer looks at noisy tokens"
        h = as_tokens(self.patch, latents[:1, :, :prefix_frames].to(self.dtype), 1)
        cos, sin = (table[:, : h.shape[1]] for table in self._rotary_tables(latents))
        rows = self.time_rows(0.0, has_prefix=False)
        no_text = ((None, None),) * len(self.blocks)
        exact = (False,) * len(self.blocks)
        passed = self._through_blocks(h, rows, no_text, (cos, sin), split=0, quantized=exact, keep=h.shape[1])
        return PrefixKeys(pairs=passed.kept)

    def _through_blocks(
        self,
        h: Tensor,
        rows: TimeRows,
        text: Sequence[tuple[Tensor | None, Tensor | None]],
        tables: tuple[Tensor, Tensor],
        *,
        control: Tensor | None = None,
        past: Sequence[Pair] | None = None,
        split: int,
        quantized: tuple[bool, ...],
        keep: int = 0,
        layers: Sequence[int] = (),
    ) -> _Passed:
        """`control`: the stream of the control branch, whose hints are added, behind what is looked at."""
        blocks = list(zip(self.blocks, text, past or (None,) * len(self.blocks), quantized, strict=True))

        def through(
            index: int, h: Tensor, pending: Tensor | None, gate: Tensor | None
        ) -> tuple[Tensor, Tensor, Tensor, Pair | None]:
            block, (keys, values), before, eight_bit = blocks[index]
            made: tuple[Tensor, Tensor, Tensor, Pair | None] = block(
                h, pending, gate, rows.block, keys, values, *tables,
                split=split, quantized=eight_bit, past=before, keep=keep,
            )  # fmt: skip
            return made

        pending = gate = None
        kept, states = [], dict[int, Tensor]()
        for index in range(self.num_layers):
            hint = None
            if self.control is not None and control is not None and index in self.control.layers:
                branch = self.control.layers[index]
                # as the library has them all ready before the first block; one at a time takes less memory
                c, branch_out, branch_gate, _ = through(self.num_layers + branch, control, None, None)
                control = self.ops.gate_residual(c, branch_out, branch_gate, split=split)
                hint = self.control.hint(branch, control)
            h, pending, gate, pair = through(index, h, pending, gate)
            if index in layers:
                states[index] = pooled(h[:, split:], pending[:, split:], gate)
            h = h if hint is None else h + hint
            if pair is not None:
                kept.append(pair)
        return _Passed(
            h=h,
            pending=as_tensor(pending),
            gate=as_tensor(gate),
            kept=tuple(kept),
            states=tuple(states[layer] for layer in layers),
        )

    def _predicted(self, passed: _Passed, rows: TimeRows, split: int, shape: torch.Size) -> Predicted:
        shift, scale = rows.out.unbind(2)
        _, n, _ = self.ops.residual_norm(
            passed.h, passed.pending, passed.gate,
            scale=scale, shift=shift, split=split, eps=self.eps, quantize=None,
        )  # fmt: skip
        velocity = unpatchify(self.proj_out(n), shape, self.patch_size).float()
        return Predicted(velocity=velocity, prefix=PrefixKeys(pairs=passed.kept), states=passed.states)

    def _compute_rows(self, value: float, has_prefix: bool) -> TimeRows:
        device = self.table.device
        times = torch.full((2 if has_prefix else 1,), value, device=device)
        if has_prefix:
            times[0] = 0.0
        embed = self.embed
        hidden = embed.timesteps_proj(times).to(next(embed.time_embedder.parameters()).dtype)
        temb = embed.time_embedder(hidden).to(self.dtype)  # [R, C]
        projected = embed.time_proj(embed.act_fn(temb)).unflatten(1, (6, -1))
        return TimeRows(
            block=projected.float()[None].contiguous(),
            out=(self.table.float() + temb[:, None].float())[None].contiguous(),  # [1, R, 2, C]
        )

    def _rotary_tables(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        key = tuple(latents.shape[2:])
        if key not in self._rotary:
            cos, sin = self.rope(latents)
            self._rotary[key] = (cos.float().contiguous(), sin.float().contiguous())
        return self._rotary[key]


class ControlBranch(nn.Module):
    """What VACE has beside its blocks: how its stream begins, and what it adds behind some of them."""

    def __init__(self, transformer: WanVACETransformer3DModel) -> None:
        super().__init__()
        self.patch = transformer.vace_patch_embedding
        self.first = transformer.vace_blocks[0].proj_in
        self.outs = nn.ModuleList(block.proj_out for block in transformer.vace_blocks)
        self.layers = {int(layer): index for index, layer in enumerate(transformer.config.vace_layers)}
        """Layer of the model -> the block of the branch whose hint is added behind it."""
        self.sources: tuple[nn.Module, ...] = tuple(transformer.vace_blocks)

    def begin(self, given: Tensor, h: Tensor) -> Tensor:
        """[B, S, C] of the last channels of [N, Z + control, F, h, w] and the embedded latents [B, S, C]."""
        control = as_tokens(self.patch, given[:, -self.patch.in_channels :], len(h))
        return as_tensor(self.first(control) + h)

    def hint(self, index: int, control: Tensor) -> Tensor:
        return as_tensor(self.outs[index](control))


def as_tokens(patch: nn.Module, latents: Tensor, batch: int) -> Tensor:
    """[N, Z, F, h, w] -> [B, S, C]: all N rows, once for each branch of guidance."""
    tokens = as_tensor(patch(latents)).flatten(2).transpose(1, 2)
    return tokens.expand(batch, -1, -1).contiguous() if len(tokens) in (1, batch) else tokens.repeat(2, 1, 1)


def unpatchify(tokens: Tensor, shape: torch.Size, patch_size: tuple[int, int, int]) -> Tensor:
    """[B, S, Z * patch] -> [B, Z, F, h, w], the order of the library's last lines."""
    (p_t, p_h, p_w), (_, _, frames, height, width) = patch_size, shape
    grid = tokens.unflatten(1, (frames // p_t, height // p_h, width // p_w))
    cells = grid.unflatten(4, (p_t, p_h, p_w, -1)).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return as_tensor(cells.flatten(6, 7).flatten(4, 5).flatten(2, 3))
