"""One decoding step of the language model: new tokens of the slots -> the logits after each of them.

transformers' modules hold the weights; the operators are those of `kernels.decode` and `kernels.linear`.
Layers that read the same input are one GEMM. Invariant: with the same weights, what `model.generate`
computes, up to the order of sums; and the logits of a row do not depend on the other rows, but for earlier
tokens of its slot.

R rows (tokens) . S slots . C channels . V vocabulary . L positions of the cache . D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.critics.qwen_vl.delta_net import WIDTH, DeltaMemory, DeltaNet
from engine.critics.qwen_vl.mixers import Attention, GatedAttention, Mixer, Norm, Rows
from engine.critics.qwen_vl.projections import Projection, projection
from engine.errors import ModelError
from engine.words import counted
from kernels.fused import swiglu

FULL, LINEAR = "full_attention", "linear_attention"
HYBRID = "qwen3_5_text"
"""The type of language model whose layers are of both kinds; all others have full attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """A prompt that was read: keys, values [1, G, n, D] of each layer of full attention, logits [1, V] after
    its last token."""

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    states: Sequence[tuple[Tensor, Tensor]] = ()
    """Of each other layer: what its memory begins with, [1, H, K, V] and [1, C, T]."""
    logits: Tensor
    next_rotary: int
    """The rotary position of the first token that is written."""

    @property
    def length(self) -> int:
        return self.keys[0].shape[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """keys, values [S, G, L, D] of each layer with full attention, contiguous; memories of the other layers;
    start int64 [S]: the position of the first row of the last step, behind which those memories are."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    memories: tuple[DeltaMemory, ...]
    start: Tensor

    @property
    def length(self) -> int:
        return self.keys[0].shape[2]

    def parts(self) -> tuple[Tensor, ...]:
        """All that is kept of the slots, which are the first dimension of each."""
        memories = (part for memory in self.memories for part in memory.parts())
        return (*self.keys, *self.values, *memories, self.start)

    def begin(self, slot: int, prompt: Prefilled) -> None:
        """The slot's tokens are those of the prompt."""
        pairs = zip((*self.keys, *self.values), (*prompt.keys, *prompt.values), strict=True)
        for mine, given in pairs:
            mine[slot, :, : prompt.length].copy_(given[0])
        for memory, (state, inputs) in zip(self.memories, prompt.states, strict=True):
            memory.begin(slot, state[0], inputs[0])
        self.start[slot] = prompt.length


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    before_mixer: Norm
    mixer: Mixer
    before_mlp: Norm
    gate_up: Projection
    down: Projection


class TextStep:
    """The step of a loaded Qwen3-VL, Qwen2.5-VL or Qwen3.5. Merges the weights of plain layers in place."""

    def __init__(self, model: Any) -> None:
        self.config = model.config.get_text_config()
        require_decodable(self.config)
        self._text = model.model.language_model
        self._kinds = layer_kinds(self.config)
        self._layers = tuple(_layer(layer, self.config) for layer in self._text.layers)
        self._norm = Norm.of(self._text.norm)
        self._head = projection(model.lm_head)
        self.vocab_size: int = model.lm_head.out_features

    def empty_cache(self, slots: int, length: int) -> Cache:
        """Zeros for `length` positions of each slot."""
        dtype, device = self._text.norm.weight.dtype, self._text.norm.weight.device
        shape = (slots, self.config.num_key_value_heads, length, head_dim(self.config))
        full, linear = (self._kinds.count(kind) for kind in (FULL, LINEAR))

        def parts() -> tuple[Tensor, ...]:
            return tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(full))

        return Cache(
            keys=parts(),
            values=parts(),
            memories=tuple(DeltaMemory.of(self.config, slots, dtype, device) for _ in range(linear)),
            start=torch.zeros(slots, dtype=torch.int64, device=device),
        )

    def __call__(
        self, tokens: Tensor, slots: Tensor, positions: Tensor, rotary: Tensor, cache: Cache, width: int = 1
    ) -> Tensor:
        """-> logits [R, V]. All int64 [R]: token, its slot, its place in the cache, its rotary position.

        `width` rows of a slot, one after the other, no slot twice. Writes what it keeps of the tokens into
        the cache, then each sees all places up to its own; what is kept of rows at or behind the first place
        of the next step counts for nothing. Never reads the device.
        """
        h = self._text.embed_tokens(tokens)
        rows = self._rows(h, slots, positions, rotary, cache, width)
        full = zip(cache.keys, cache.values, strict=True)
        memories = iter(cache.memories)
        for kind, layer in zip(self._kinds, self._layers, strict=True):
            memory = next(full) if kind == FULL else next(memories)
            h = layer.mixer(layer.before_mixer(h[None])[0], h, rows, memory)
            gate_up = layer.gate_up(layer.before_mlp(h[None])[0], None)
            h = layer.down(swiglu.run(gate_up)[0], h)
        if cache.memories:
            cache.start[rows.owners] = positions[::width]
        return self._head(self._norm(h[None])[0], None)

    def _rows(
        self, h: Tensor, slots: Tensor, positions: Tensor, rotary: Tensor, cache: Cache, width: int
    ) -> Rows:
        cos, sin = self._text.rotary_emb(h[:, None], rotary.view(1, -1, 1).expand(3, -1, -1))
        if cos.dim() == 4:  # Qwen2.5-VL before transformers 5.20: time, height, width, equal for a text token
            cos, sin = cos[0], sin[0]
        owners = kept = slots
        if cache.memories:
            owners = slots[::width].contiguous()
            kept = (positions[::width] - cache.start[owners]).clamp_(0, WIDTH)
        return Rows(
            slots=slots,
            positions=positions,
            lengths=positions + 1,
            cos=cos[:, 0],
            sin=sin[:, 0],
            owners=owners,
            kept=kept,
        )


def head_dim(config: Any) -> int:
    """D of a text config."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def layer_kinds(config: Any) -> list[str]:
    """FULL or LINEAR of each layer, of a text config that is decodable."""
    if config.model_type == HYBRID:
        return list(config.layer_types)
    return [FULL] * config.num_hidden_layers


def groups(model: Any) -> list[list[tuple[nn.Module, str]]]:
    """(owner, attribute) of the linear layers of the language model that read the same input."""
    found: list[list[tuple[nn.Module, str]]] = []

    def add(owner: nn.Module, *names: str) -> None:
        found.append([(owner, name) for name in names])

    for layer in model.model.language_model.layers:
        if hasattr(layer, "linear_attn"):
            add(layer.linear_attn, "in_proj_qkv", "in_proj_z")
            add(layer.linear_attn, "in_proj_b", "in_proj_a")
            add(layer.linear_attn, "out_proj")
        else:
            add(layer.self_attn, "q_proj", "k_proj", "v_proj")
            add(layer.self_attn, "o_proj")
        add(layer.mlp, "gate_proj", "up_proj")
        add(layer.mlp, "down_proj")
    return found


def require_decodable(config: Any) -> None:
    """ModelError for a text config of what this step does not compute."""
    known = (FULL, LINEAR) if config.model_type == HYBRID else (FULL,)
    kinds: Sequence[str] = getattr(config, "layer_types", None) or ()
    if other := [kind for kind in kinds if kind not in known]:
        raise ModelError(
            f"the critic has {counted(len(other), 'layer')} of {other[0]}, which decoding does not do",
            fix="take a model with full attention in every layer (use_sliding_window: false in config.json)",
        )
    if config.model_type == HYBRID and FULL not in kinds:
        raise ModelError(
            "no layer of the critic has full attention, whose keys tell how long a reply is",
            fix="take a published Qwen3.5 model, in which one of four has",
        )
    if config.hidden_act != "silu":
        raise ModelError(
            f"the critic's activation is {config.hidden_act!r}, not silu",
            fix="take a Qwen3-VL, Qwen2.5-VL or Qwen3.5 model",
        )


def _layer(layer: Any, config: Any) -> _Layer:
    mixer: Mixer
    if hasattr(layer, "linear_attn"):
        mixer = DeltaNet(layer.linear_attn)
    elif config.model_type == HYBRID:
        mixer = GatedAttention(layer.self_attn)
    else:
        mixer = Attention(layer.self_attn, config.rms_norm_eps)
    return _Layer(
        before_mixer=Norm.of(layer.input_layernorm),
        mixer=mixer,
        before_mlp=Norm.of(layer.post_attention_layernorm),
        gate_up=projection(layer.mlp.gate_proj, layer.mlp.up_proj),
        down=projection(layer.mlp.down_proj),
    )
