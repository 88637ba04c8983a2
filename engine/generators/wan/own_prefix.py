"""Attention in which the prefix looks at itself alone: neither at noisy tokens nor at the text.

Prefix tokens have timestep 0, so that all they compute is then the same at every step, in both branches of
guidance and under every prompt: their keys and values can be computed once a scenario. Noisy tokens look at
everything, as always. A transformer is trained either way and must be run as it was trained: the folder's
sidecar says which. B batch . S tokens, the first K/F of them prefix . C channels . A heads . D head size
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.generators.wan.settings import ALL


def told_prefix_attention(folder: Path) -> str:
    """What the sidecar of a model folder says of it; ALL without one. Any value: `read_folder` checks it."""
    sidecar = folder / "retake.json"
    told = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else {}
    return str(told.get("prefix_attention", ALL))


def use_own_prefix(transformer: Any, prefix_frames: int, latent_frames: int) -> None:
    """Give every block of a library transformer these attentions; K of F latent frames are prefix."""
    assert 0 < prefix_frames < latent_frames, f"{prefix_frames} of {latent_frames} latent frames"
    for block in transformer.blocks:
        block.attn1.set_processor(OwnPrefix(prefix_frames, latent_frames))
        block.attn2.set_processor(NoisyText(prefix_frames, latent_frames))


class _Split:
    """Where the prefix ends among tokens ordered by latent frames."""

    def __init__(self, prefix_frames: int, latent_frames: int) -> None:
        self.prefix_frames, self.latent_frames = prefix_frames, latent_frames

    def split(self, num_tokens: int) -> int:
        assert num_tokens % self.latent_frames == 0, f"{num_tokens} tokens of {self.latent_frames} frames"
        return num_tokens // self.latent_frames * self.prefix_frames


class OwnPrefix(_Split):
    """Self-attention: prefix queries over prefix keys, noisy queries over all keys."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[B, S, C]; the library's arguments, of which text and mask must be absent."""
        assert encoder_hidden_states is None and attention_mask is None and rotary_emb is not None
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, attn.to_v(hidden_states)))
        q, k = (rotated(x, *rotary_emb).type_as(v) for x in (q, k))  # a norm may widen
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, A, S, D]
        split = self.split(hidden_states.shape[1])
        prefix = F.scaled_dot_product_attention(q[:, :, :split], k[:, :, :split], v[:, :, :split])
        noisy = F.scaled_dot_product_attention(q[:, :, split:], k, v)
        out = torch.cat([prefix, noisy], dim=2).transpose(1, 2).flatten(2).type_as(hidden_states)
        return _projected(attn, out)


class NoisyText(_Split):
    """Cross-attention for noisy tokens alone; the prefix gets nothing from the text."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[B, S, C], zero on the prefix."""
        assert attention_mask is None and rotary_emb is None and attn.add_k_proj is None
        split = self.split(hidden_states.shape[1])
        v = attn.to_v(encoder_hidden_states)
        q = attn.norm_q(attn.to_q(hidden_states[:, split:])).type_as(v)
        k = attn.norm_k(attn.to_k(encoder_hidden_states)).type_as(v)
        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).type_as(hidden_states)
        return F.pad(_projected(attn, out), (0, 0, split, 0))


def _projected(attn: Any, out: Tensor) -> Tensor:
    for layer in attn.to_out:  # the projection, then the library's dropout of 0
        out = layer(out)
    return out


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, S, A, D] turned in pairs of neighbouring channels, as the library does; tables [1, S, 1, D]."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2).type_as(x)
