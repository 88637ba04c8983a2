"""The towers of a Cosmos3 transformer as lists of modules: what reads text, what makes video, what idles.

They are interleaved: every layer has one half of each. Knows no forward and no step. Invariant: the text
tower is needed once a prompt, the generation tower at every step, and nothing is in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from engine.machine.offload import look_up_on_host, stream

_TEXT_LINEARS = ("to_q", "to_k", "to_v", "to_out")
_VIDEO_LINEARS = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_TEXT_NORMS = ("norm_q", "norm_k", "k_norm_und_for_gen")
IDLE = (
    "audio_proj_in",
    "audio_proj_out",
    "audio_modality_embed",
    "action_proj_in",
    "action_proj_out",
    "action_modality_embed",
)
"""Sound and actions, which a video without them never reads."""
WORDS = ("lm_head", "norm")
"""What makes words of the text tower's states: a critic reads it, a take does not."""


def text_units(transformer: Any) -> Iterator[nn.Module]:
    """The large modules of the text tower, each with a forward of its own."""
    for layer in transformer.layers:
        yield from (getattr(layer.self_attn, name) for name in _TEXT_LINEARS)
        yield layer.mlp


def video_units(transformer: Any) -> Iterator[nn.Module]:
    """The large modules of the generation tower."""
    for layer in transformer.layers:
        yield from (getattr(layer.self_attn, name) for name in _VIDEO_LINEARS)
        yield layer.mlp_moe_gen


def text_tower(transformer: Any) -> Iterator[nn.Module]:
    """All of it: embeddings, halves of the layers, and what makes words where that is still there."""
    yield transformer.embed_tokens
    yield from text_units(transformer)
    for layer in transformer.layers:
        yield layer.input_layernorm
        yield layer.post_attention_layernorm
        yield from (norm for name in _TEXT_NORMS if (norm := getattr(layer.self_attn, name)) is not None)
    yield from (getattr(transformer, name) for name in WORDS if hasattr(transformer, name))


def drop_idle(transformer: Any, *, words: bool) -> None:
    """Forget what no take reads, and with it its memory; `words`: keep what makes words."""
    for name in (*IDLE, *(() if words else WORDS)):
        if hasattr(transformer, name):
            delattr(transformer, name)


def place(transformer: Any, device: torch.device, streamed: Iterable[str]) -> None:
    """All on the device but the towers of `streamed`, "text_encoder" and "blocks", whose units visit it."""
    away: list[nn.Module] = []
    if "text_encoder" in streamed:
        away += text_units(transformer)
        look_up_on_host(transformer.embed_tokens, device)
    if "blocks" in streamed:
        away += video_units(transformer)
    home = [*away, transformer.embed_tokens] if "text_encoder" in streamed else away
    staying = {id(tensor) for unit in home for tensor in (*unit.parameters(), *unit.buffers())}
    for tensor in (*transformer.parameters(), *transformer.buffers()):
        if id(tensor) not in staying:
            tensor.data = tensor.data.to(device)
    stream(away, device)


def unique_bytes(modules: Iterable[nn.Module], *, but: frozenset[int] = frozenset()) -> int:
    """Of their parameters and buffers, each once, without those whose id is in `but`."""
    tensors = {
        id(tensor): tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(size for key, size in tensors.items() if key not in but)
