"""One Wan block over the library's own weights, cut where memory traffic can be saved.

Every residual is added in the pass that normalises what follows, Q, K and V share one GEMM and one
quantization, text keys and values come ready, and modulation has a row per distinct timestep. A linear layer
may be 8-bit or not, as quantization has left it. Knows no step, no sampler and no file.
B batch . S tokens . C channels . A heads . D head size . L text tokens . R rows of modulation (1 or 2)
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.denoise.layers import (
    BoundAttention,
    ElementWise,
    Layer,
    as_tensor,
    layer_format,
    merge_linears,
    on_own_input,
    on_shared_input,
)
from engine.generators.wan.own_prefix import OwnPrefix
from engine.quant.linears import QuantizedLinear
from engine.quant.recipes import SurgeryError
from kernels.fused import qk_norm_rope

Pair = tuple[Tensor, Tensor]
"""Keys and values of some tokens in one block, [B, P, C] each, before norm and rotation: as the layers make
them, so that every form of attention can read them."""


class FastBlock(nn.Module):
    """The forward of a WanTransformerBlock without image conditioning, or of a block of VACE or AnyFlow: they
    have the same parts. Shares its parameters."""

    q_scale: Tensor  # fp32 [A]
    k_scale: Tensor

    def __init__(
        self,
        block: Any,
        *,
        element_wise: ElementWise,
        attention: BoundAttention,
        quantized_attention: BoundAttention,
        cross_attention: BoundAttention,
    ) -> None:
        """`quantized_attention` is `attention` where there is no 8-bit one."""
        super().__init__()
        self_attn, cross_attn = block.attn1, block.attn2
        if getattr(cross_attn, "add_k_proj", None) is not None:
            raise SurgeryError(
                "the block has image keys (add_k_proj), which the fast forward does not know",
                fix="use --preset exact for this model",
            )
        self.heads, self.eps = int(self_attn.heads), float(block.norm1.eps)
        self.qk_eps, self.cross_eps = float(self_attn.norm_q.eps), float(cross_attn.norm_q.eps)
        self.ops = element_wise
        self.attention, self.quantized_attention = attention, quantized_attention
        self.cross_attention = cross_attention
        self.own_prefix = isinstance(self_attn.processor, OwnPrefix)
        self.table = block.scale_shift_table  # fp32 [1, 6, C]
        self.qkv = merge_linears([self_attn.to_q, self_attn.to_k, self_attn.to_v])
        self.norm_q, self.norm_k = self_attn.norm_q.weight, self_attn.norm_k.weight
        self.out: Layer = self_attn.to_out[0]
        self.cross_norm = block.norm2 if isinstance(block.norm2, nn.LayerNorm) else None
        self.cross_q: Layer = cross_attn.to_q
        self.cross_k, self.cross_v = cross_attn.to_k, cross_attn.to_v
        self.cross_norm_q, self.cross_norm_k = cross_attn.norm_q.weight, cross_attn.norm_k
        self.cross_out: Layer = cross_attn.to_out[0]
        self.up: Layer = block.ffn.net[0].proj
        self.down: Layer = block.ffn.net[2]
        self.register_buffer("q_scale", qk_norm_rope.static_scale(self.norm_q, self.heads), persistent=False)
        self.register_buffer("k_scale", qk_norm_rope.static_scale(self.norm_k, self.heads), persistent=False)

    def text_keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the embedded text [B, L, C], each [B, A, L, D]: the same at every step."""
        keys = self.cross_norm_k(self.cross_k(text)).unflatten(2, (self.heads, -1))
        values = self.cross_v(text).unflatten(2, (self.heads, -1))
        return keys.transpose(1, 2).contiguous(), values.transpose(1, 2).contiguous()

    def forward(
        self,
        h: Tensor,  # [B, S, C]
        pending: Tensor | None,  # [B, S, C] the branch of the block before, not yet added to h
        pending_gate: Tensor | None,  # [1, R, C]
        rows: Tensor,  # fp32 [1, R, 6, C] time projection
        text_keys: Tensor | None,  # [B, A, L, D]
        text_values: Tensor | None,
        cos: Tensor,  # fp32 [1, S, 1, D]
        sin: Tensor,
        split: int,
        quantized: bool,  # whether self-attention is the quantized one
        past: Pair | None = None,
        keep: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor, Pair | None]:
        """(h, its last branch not yet added, the gate of that): what the next block takes; and the first
        `keep` keys and values, [B, keep, C] before norm and rotation, None without any.

        `past`: such keys and values of tokens that stand before h; cos and sin are then of them too.
        `text_keys` and `text_values` None: no token gets anything from the text.
        """
        modulation = self.modulation(rows)
        h, n, n_scale = self.enter(h, pending, pending_gate, modulation, split)
        context, kept = self._self_attention(
            on_shared_input(self.qkv, n, n_scale, h.dtype), cos, sin, split, quantized, past, keep=keep
        )
        y = on_own_input(self.out, context, self.ops.row_quant, h.dtype)
        del n, n_scale, context  # what follows is the peak
        gate: Tensor | None = modulation[2]
        if text_keys is not None and text_values is not None:
            h, y = self._cross_attention(h, y, modulation[2], text_keys, text_values, split)
            gate = None
        h, n, n_scale = self._feed_forward_norm(h, y, gate, modulation, split)
        return h, self._feed_forward(n, n_scale, h.dtype), modulation[5], kept

    def enter(
        self,
        h: Tensor,
        pending: Tensor | None,
        pending_gate: Tensor | None,
        modulation: tuple[Tensor, ...],
        split: int,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(h with what was pending, the input of queries, keys and values, its scale where that is 8-bit)."""
        shift, scale, *_ = modulation
        return self.ops.residual_norm(
            h, pending, pending_gate,
            scale=scale, shift=shift, split=split, eps=self.eps, quantize=layer_format(self.qkv),
        )  # fmt: skip

    def leave(
        self,
        h: Tensor,
        context: Tensor,
        modulation: tuple[Tensor, ...],
        text_keys: Tensor,
        text_values: Tensor,
        split: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of what self-attention gave [B, S, C]: what the next block takes."""
        y = on_own_input(self.out, context, self.ops.row_quant, h.dtype)
        h, y = self._cross_attention(h, y, modulation[2], text_keys, text_values, split)
        h, n, n_scale = self._feed_forward_norm(h, y, None, modulation, split)
        return h, self._feed_forward(n, n_scale, h.dtype), modulation[5]

    def modulation(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of self-attention and of the feed-forward, each [1, R, C]."""
        parts: tuple[Tensor, ...] = (self.table[:, None] + rows).unbind(2)
        return parts

    def _cross_attention(
        self, h: Tensor, y: Tensor, gate: Tensor, text_keys: Tensor, text_values: Tensor, split: int
    ) -> tuple[Tensor, Tensor]:
        """(h with the branch y of self-attention, what the text adds to it, not yet added)."""
        h, n, n_scale = self._cross_norm(h, y, gate, split)
        query = self.ops.qk_norm_rope(
            on_shared_input(self.cross_q, n, n_scale, h.dtype),
            self.cross_norm_q,
            heads=self.heads,
            eps=self.cross_eps,
        )  # [B, S, A, D]
        context = self.cross_attention.run(
            query.transpose(1, 2), text_keys, text_values, scale=query.shape[-1] ** -0.5
        )
        context = context.transpose(1, 2).flatten(2)
        y = on_own_input(self.cross_out, context, self.ops.row_quant, h.dtype)
        if self.own_prefix:  # whose tokens get nothing from the text
            y = F.pad(y[:, split:], (0, 0, split, 0))
        return h, y

    def projected(
        self, n: Tensor, n_scale: Tensor | None, dtype: torch.dtype, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, A, S, D] in `dtype`, of what `enter` gave."""
        q, k, v = on_shared_input(self.qkv, n, n_scale, dtype).chunk(3, dim=-1)
        norm = {"heads": self.heads, "eps": self.qk_eps}
        q = self.ops.qk_norm_rope(q, self.norm_q, cos, sin, **norm)
        k = self.ops.qk_norm_rope(k, self.norm_k, cos, sin, **norm)
        return q.transpose(1, 2), k.transpose(1, 2), v.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _self_attention(
        self,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        split: int,
        quantized: bool,
        past: Pair | None,
        *,
        keep: int,
    ) -> tuple[Tensor, Pair | None]:
        """[B, S, C] of qkv [B, S, 3 C], and what `forward` keeps."""
        q, k, v = qkv.chunk(3, dim=-1)  # each [B, S, C], strided
        dtype, before = qkv.dtype, 0
        kept = (k[:, :keep].contiguous(), v[:, :keep].contiguous()) if keep else None
        if past is not None:
            before = past[0].shape[1]
            k, v = torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1)
        v = v.unflatten(2, (self.heads, -1))
        bound = self.quantized_attention if quantized else self.attention
        eight_bit = bound.quantized is not None
        norm = {"heads": self.heads, "eps": self.qk_eps}
        angles = cos[:, before:], sin[:, before:]
        q = self.ops.qk_norm_rope(q, self.norm_q, *angles, scale=self.q_scale if eight_bit else None, **norm)
        k = self.ops.qk_norm_rope(k, self.norm_k, cos, sin, scale=self.k_scale if eight_bit else None, **norm)
        softmax_scale = q.shape[-1] ** -0.5
        scales: tuple[Tensor, ...] = ()
        if eight_bit:
            v, v_scale = self.ops.head_quant(v)
            scales = (self.q_scale.expand(len(v), -1), self.k_scale.expand(len(v), -1), v_scale)
        attend = bound.quantized or bound.run
        if bound.takes_prefix:
            attend = functools.partial(attend, prefix=before + split)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, A, S, D], of k and v with those before
        if self.own_prefix and split:
            prefix = [x[:, :, :split] for x in (q, k, v)]
            # a kernel for a prefix would find nothing behind it
            alone = self.attention.run if bound.takes_prefix else attend
            parts = [alone(*prefix, *scales, scale=softmax_scale)]
            parts.append(attend(q[:, :, split:], k, v, *scales, scale=softmax_scale))
            out = torch.cat(parts, dim=2)
        else:
            out = attend(q, k, v, *scales, scale=softmax_scale)
        return out.transpose(1, 2).flatten(2).to(dtype), kept

    def _cross_norm(
        self, h: Tensor, y: Tensor, gate: Tensor, split: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        norm, quantize = self.cross_norm, layer_format(self.cross_q)
        if norm is not None:
            affine = {"weight": norm.weight, "bias": norm.bias}
            return self.ops.residual_norm(h, y, gate, split=split, eps=norm.eps, quantize=quantize, **affine)
        h = self.ops.gate_residual(h, y, gate, split=split)
        return h, *(self.ops.row_quant(h, quantize=quantize) if quantize else (h, None))

    def _feed_forward_norm(
        self, h: Tensor, y: Tensor, gate: Tensor | None, modulation: tuple[Tensor, ...], split: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        *_, shift, scale, _ = modulation
        return self.ops.residual_norm(
            h, y, gate,
            scale=scale, shift=shift, split=split, eps=self.eps, quantize=layer_format(self.up),
        )  # fmt: skip

    def _feed_forward(self, n: Tensor, n_scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        u = on_shared_input(self.up, n, n_scale, dtype)
        if isinstance(self.down, QuantizedLinear):
            u8, u_scale = self.ops.row_quant(u, quantize=self.down.input_format, activation="gelu_tanh")
            return self.down.forward_quantized(u8, u_scale, out_dtype=dtype)
        return as_tensor(self.down(F.gelu(u, approximate="tanh")))
