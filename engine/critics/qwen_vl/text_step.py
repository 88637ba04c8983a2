"""One decoding step of the language model: new tokens of the slots -> the logits after each of them.

transformers' modules hold the weights; the operators are those of `kernels.decode` and `kernels.linear`.
Layers that read the same input are one GEMM. Invariant: with the same weights, what `model.generate`
computes, up to the order of sums; and the logits of a row do not depend on the other rows, but for the keys
and values of earlier tokens of its slot.

R rows (tokens) . S slots . C channels . V vocabulary . L positions of the cache . D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import ModelError
from engine.quant.four_bit import together
from kernels.decode import attention, rope_cache
from kernels.fused import rms_norm, swiglu
from kernels.linear import four_bit

Projection = Callable[[Tensor, Tensor | None], Tensor]
"""x [R, K], residual [R, N] or None -> [R, N]."""

ROWS = 16
"""A library's GEMM is chosen by the number of rows: with always as many, a row does not feel the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """keys, values [S, G, L, D] of each layer, contiguous."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        return self.keys[0].shape[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    before_attention: nn.Module
    qkv: Projection
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Projection
    before_mlp: nn.Module
    gate_up: Projection
    down: Projection


class TextStep:
    """The step of a loaded Qwen3-VL or Qwen2.5-VL. Merges the weights of plain layers in place."""

    def __init__(self, model: Any) -> None:
        self.config = model.config.get_text_config()
        _require(self.config)
        self._text = model.model.language_model
        self._layers = tuple(_layer(layer) for layer in self._text.layers)
        self._head = _projection(model.lm_head)
        self.vocab_size: int = model.lm_head.out_features

    def empty_cache(self, slots: int, length: int) -> Cache:
        """Zeros for `length` positions of each slot."""
        weight = self._text.norm.weight
        shape = (slots, self.config.num_key_value_heads, length, head_dim(self.config))

        def parts() -> tuple[Tensor, ...]:
            return tuple(torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in self._layers)

        return Cache(keys=parts(), values=parts())

    def __call__(
        self, tokens: Tensor, slots: Tensor, positions: Tensor, rotary: Tensor, cache: Cache
    ) -> Tensor:
        """-> logits [R, V]. All int64 [R]: token, its slot, its place in the cache, its rotary position.

        Writes keys and values of the tokens into the cache, then each sees all places up to its own. Never
        reads the device.
        """
        h = self._text.embed_tokens(tokens)
        cos, sin = self._text.rotary_emb(h[:, None], rotary.view(1, -1, 1).expand(3, -1, -1))
        if cos.dim() == 4:  # Qwen2.5-VL before transformers 5.20: time, height, width, equal for a text token
            cos, sin = cos[0], sin[0]
        cos, sin = cos[:, 0], sin[:, 0]
        lengths = positions + 1
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            qkv = layer.qkv(_normed(layer.before_attention, h), None)
            q = rope_cache.run(
                qkv, cos, sin, keys, values, positions, slots,
                q_norm=layer.q_norm, k_norm=layer.k_norm, eps=self.config.rms_norm_eps,
            )  # fmt: skip
            attended = attention.run(q, keys, values, lengths, slots)
            h = layer.out(attended.flatten(1), h)
            gate_up = layer.gate_up(_normed(layer.before_mlp, h), None)
            h = layer.down(swiglu.run(gate_up)[0], h)
        return self._head(_normed(self._text.norm, h), None)


def head_dim(config: Any) -> int:
    """D of a text config."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def groups(model: Any) -> list[list[tuple[nn.Module, str]]]:
    """(owner, attribute) of the linear layers of the language model that read the same input."""
    found: list[list[tuple[nn.Module, str]]] = []
    for layer in model.model.language_model.layers:
        attention_, mlp = layer.self_attn, layer.mlp
        found.append([(attention_, name) for name in ("q_proj", "k_proj", "v_proj")])
        found.append([(attention_, "o_proj")])
        found.append([(mlp, name) for name in ("gate_proj", "up_proj")])
        found.append([(mlp, "down_proj")])
    return found


def _require(config: Any) -> None:
    """ModelError for what this step does not compute."""
    sliding = [kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"]
    if sliding:
        raise ModelError(
            f"the critic has {len(sliding)} layers of {sliding[0]}, which decoding does not do",
            fix="take a model with full attention in every layer (use_sliding_window: false in config.json)",
        )
    if config.hidden_act != "silu":
        raise ModelError(
            f"the critic's activation is {config.hidden_act!r}, not silu",
            fix="take a Qwen3-VL or Qwen2.5-VL model",
        )


def _layer(layer: Any) -> _Layer:
    attention_, mlp = layer.self_attn, layer.mlp
    norms = [getattr(attention_, name, None) for name in ("q_norm", "k_norm")]
    q_norm, k_norm = (None if norm is None else norm.weight for norm in norms)
    return _Layer(
        before_attention=layer.input_layernorm,
        qkv=_projection(attention_.q_proj, attention_.k_proj, attention_.v_proj),
        q_norm=q_norm,
        k_norm=k_norm,
        out=_projection(attention_.o_proj),
        before_mlp=layer.post_attention_layernorm,
        gate_up=_projection(mlp.gate_proj, mlp.up_proj),
        down=_projection(mlp.down_proj),
    )


def _normed(norm: Any, h: Tensor) -> Tensor:
    return rms_norm.run(h[None], None, norm.weight, eps=norm.variance_epsilon)[1][0]


def _projection(*layers: Any) -> Projection:
    """The layers as one GEMM where their kind allows it, else one after the other."""
    packed = together(layers)
    if packed is not None:
        biases = [layer.bias for layer in layers]
        bias = None if biases[0] is None else torch.cat(biases)
        return lambda x, residual: four_bit.run(x, packed, bias=bias, residual=residual)
    if all(type(layer) is nn.Linear for layer in layers):
        weight, bias = _merged(layers)
        return lambda x, residual: _added(_few_rows(lambda rows: F.linear(rows, weight, bias), x), residual)

    def each(x: Tensor, residual: Tensor | None) -> Tensor:
        return _added(_few_rows(lambda rows: torch.cat([layer(rows) for layer in layers], -1), x), residual)

    return each


@torch.no_grad()
def _merged(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of all; the layers' own become parts of them, so that nothing is stored twice."""
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    weight = torch.cat([layer.weight for layer in layers])
    for layer, part in zip(layers, weight.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return weight, torch.cat(biases) if biases else None


def _few_rows(multiply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """On a GPU always a multiple of ROWS rows; see there."""
    missing = -x.shape[0] % ROWS
    if not x.is_cuda or missing == 0:
        return multiply(x)
    return multiply(F.pad(x, (0, 0, 0, missing)))[: x.shape[0]]


def _added(out: Tensor, residual: Tensor | None) -> Tensor:
    return out if residual is None else out + residual
