"""One layer of Cosmos3's generation tower over the library's own weights, cut where memory traffic is saved.

Every residual is added in the pass that normalises what follows; Q, K and V share one GEMM and one
quantization, gate and up another; cached text keys are put before the video's by the pass that makes those. A
linear layer may be 8-bit or not, as quantization has left it. Knows no step and no text.
B batch . S video tokens . L text tokens . C channels . A heads . K heads of keys and values . D head size
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.denoise.layers import (
    BoundAttention,
    ElementWise,
    Layer,
    layer_format,
    let_vary,
    merge_linears,
    on_own_input,
    on_shared_input,
)
from kernels.fused import head_norm_rope
from kernels.fused.formats import hadamard_fp8


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerText:
    """What one layer reads of the text, [B, L, K, D]; `quantized_keys` are those of an attention in E4M3,
    after its Hadamard rotation."""

    keys: Tensor
    values: Tensor
    quantized_keys: Tensor | None


class FastCosmos3Block(nn.Module):
    """The generation half of a decoder layer; shares its parameters."""

    q_scale: Tensor  # fp32 []
    k_scale: Tensor  # fp32 [], of the text's keys too

    def __init__(
        self,
        layer: Any,
        *,
        element_wise: ElementWise,
        attention: BoundAttention,
        quantized_attention: BoundAttention,
    ) -> None:
        """`quantized_attention` is `attention` where there is no 8-bit one."""
        super().__init__()
        attn, mlp = layer.self_attn, layer.mlp_moe_gen
        self.heads, self.kv_heads = int(attn.num_attention_heads), int(attn.num_key_value_heads)
        self.head_dim = int(attn.head_dim)
        self.ops = element_wise
        self.attention, self.quantized_attention = attention, quantized_attention
        first, second = layer.input_layernorm_moe_gen, layer.post_attention_layernorm_moe_gen
        self.norm, self.eps = first.weight, float(first.eps)
        self.mlp_norm, self.mlp_eps = second.weight, float(second.eps)
        self.norm_q, self.norm_k = attn.norm_added_q.weight, attn.norm_added_k.weight
        self.qk_eps = float(attn.norm_added_q.eps)
        self.qkv = merge_linears([attn.add_q_proj, attn.add_k_proj, attn.add_v_proj])
        self.out: Layer = attn.to_add_out
        self.gated = mlp.hidden_act == "silu"
        self.up: Layer = merge_linears([mlp.gate_proj, mlp.up_proj]) if self.gated else mlp.up_proj
        self.down: Layer = mlp.down_proj
        text_norm = attn.norm_k if attn.k_norm_und_for_gen is None else attn.k_norm_und_for_gen
        k_scale = head_norm_rope.static_scale(self.norm_k, text_norm.weight)
        self.register_buffer("q_scale", head_norm_rope.static_scale(self.norm_q), persistent=False)
        self.register_buffer("k_scale", k_scale, persistent=False)

    def text(self, keys: Tensor, values: Tensor) -> LayerText:
        """Of keys and values [B, L, K, D], as the text tower made them."""
        eight_bit = any(bound.quantized is not None for bound in (self.attention, self.quantized_attention))
        quantized = hadamard_fp8(keys.float(), self.k_scale) if eight_bit else None
        let_vary(self, 1, keys, values, quantized)
        return LayerText(keys=keys, values=values, quantized_keys=quantized)

    def text_of_step(self, text: LayerText, quantized: bool) -> tuple[Tensor, Tensor]:
        """Keys, of the dtype that the attention of the step takes, and values."""
        bound = self.quantized_attention if quantized else self.attention
        keys = text.keys if bound.quantized is None else text.quantized_keys
        assert keys is not None, f"text without 8-bit keys for {bound.name}"
        return keys, text.values

    def forward(
        self,
        h: Tensor,  # [B, S, C]
        pending: Tensor | None,  # [B, S, C] the branch of the block before, not yet added to h
        text: tuple[Tensor, Tensor],  # keys and values of this step, [B, L, K, D]
        cos: Tensor,  # fp32 [S, D]
        sin: Tensor,
        quantized: bool,  # whether attention is the quantized one
        prefix: int,  # tokens of the video that are clean, the first ones
    ) -> tuple[Tensor, Tensor]:
        """(h, its last branch not yet added): what the next block takes."""
        h, n, n_scale = self.ops.rms_norm(
            h, pending, self.norm, eps=self.eps, quantize=layer_format(self.qkv)
        )
        y = self._attend(on_shared_input(self.qkv, n, n_scale, h.dtype), text, cos, sin, quantized, prefix)
        y = on_own_input(self.out, y.to(h.dtype), self.ops.row_quant, h.dtype)
        h, n, n_scale = self.ops.rms_norm(
            h, y, self.mlp_norm, eps=self.mlp_eps, quantize=layer_format(self.up)
        )
        return h, self._feed_forward(on_shared_input(self.up, n, n_scale, h.dtype))

    def _attend(
        self,
        qkv: Tensor,
        text: tuple[Tensor, Tensor],
        cos: Tensor,
        sin: Tensor,
        quantized: bool,
        prefix: int,
    ) -> Tensor:
        """Attention of the video over text and video: [B, S, A * D]. To a kernel for a prefix the text is a
        part of it."""
        sizes = [count * self.head_dim for count in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = qkv.split(sizes, dim=-1)  # strided
        v = torch.cat([text[1], v.unflatten(2, (self.kv_heads, -1))], dim=1)  # [B, L + S, K, D]
        bound = self.quantized_attention if quantized else self.attention
        scales = (None, None) if bound.quantized is None else (self.q_scale, self.k_scale)
        options = {"cos": cos, "sin": sin, "eps": self.qk_eps}
        q = self.ops.head_norm_rope(q, self.norm_q, heads=self.heads, scale=scales[0], **options)
        k = self.ops.head_norm_rope(
            k, self.norm_k, heads=self.kv_heads, scale=scales[1], before=text[0], **options
        )
        softmax_scale = self.head_dim**-0.5
        if bound.quantized is None:
            k, v = (self._for_kernel(x, bound) for x in (k, v))
            attend = bound.run
            if bound.takes_prefix:
                attend = functools.partial(attend, prefix=text[0].shape[1] + prefix)
            out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=softmax_scale)
            return out.transpose(1, 2).flatten(2)
        v, v_scale = self.ops.head_quant(v)
        k, v = (self._for_kernel(x, bound) for x in (k, v))
        if not bound.grouped:
            v_scale = v_scale.repeat_interleave(self.heads // self.kv_heads, dim=1)
        # One factor for all heads of q and of k; that of q is given per head of keys, as the kernels ask.
        q_scale, k_scale = (
            scale.expand(v_scale.shape).contiguous() for scale in (self.q_scale, self.k_scale)
        )
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        out = bound.quantized(*heads_first, q_scale, k_scale, v_scale, scale=softmax_scale)
        return out.transpose(1, 2).flatten(2)

    def _for_kernel(self, x: Tensor, bound: BoundAttention) -> Tensor:
        """[B, L + S, K, D] with a head for every head of queries, unless the kernel finds them itself."""
        if bound.grouped or self.heads == self.kv_heads:
            return x
        return x[:, :, :, None].expand(-1, -1, -1, self.heads // self.kv_heads, -1).flatten(2, 3)

    def _feed_forward(self, u: Tensor) -> Tensor:
        if not self.gated:
            return on_own_input(self.down, functional.relu(u).square(), self.ops.row_quant, u.dtype)
        n, n_scale = self.ops.swiglu(u, quantize=layer_format(self.down))
        return on_shared_input(self.down, n, n_scale, u.dtype)
