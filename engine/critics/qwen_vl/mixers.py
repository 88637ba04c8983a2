"""What mixes the tokens of a reply in a decoding step: attention of Qwen2.5-VL and Qwen3-VL, and of Qwen3.5.

A mixer takes the normed input x [R, C] and the residual stream h [R, C], and gives the new h; what it keeps
of a token goes into the memory of its layer. Never reads the device.
R rows (tokens) . S slots . C channels . H, G query and key heads . L positions . D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.critics.qwen_vl.projections import projection
from kernels.decode import attention, rope_cache
from kernels.fused import rms_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """An RMSNorm of the library, computed row by row: torch sums a row in an order that depends on how many
    rows there are."""

    weight: Tensor
    eps: float

    @classmethod
    def of(cls, norm: Any) -> Norm:
        """Those of Qwen3.5 are around one, but for that of Gated DeltaNet."""
        if hasattr(norm, "variance_epsilon"):
            return cls(weight=norm.weight, eps=norm.variance_epsilon)
        return cls(weight=1 + norm.weight.detach().float(), eps=norm.eps)

    def __call__(self, x: Tensor) -> Tensor:
        """[B, S, C], the last dimension contiguous."""
        return rms_norm.run(x, None, self.weight, eps=self.eps)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The tokens of a step, those of a slot one after the other; int64, but for cos and sin.

    slots, positions, lengths [R]: a token's slot, its place in the cache, and how much of that it sees; cos,
    sin [R, D'] of its rotary position, D' of the D features; owners [N]: the slots of the step; kept [N]: how
    many rows of the last step of each were written. The last two are for layers with states.
    """

    slots: Tensor
    positions: Tensor
    lengths: Tensor
    cos: Tensor
    sin: Tensor
    owners: Tensor
    kept: Tensor


Mixer = Callable[[Tensor, Tensor, Rows, Any], Tensor]
"""x, h, rows, memory -> h. The memory of attention is (keys, values), each [S, G, L, D]."""


class Attention:
    """Qwen2.5-VL's, without norms of heads, and Qwen3-VL's, with them."""

    def __init__(self, module: Any, eps: float) -> None:
        self._qkv = projection(module.q_proj, module.k_proj, module.v_proj)
        self._out = projection(module.o_proj)
        norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
        self._q_norm, self._k_norm = (None if norm is None else norm.weight for norm in norms)
        self._eps = eps

    def __call__(self, x: Tensor, h: Tensor, rows: Rows, memory: tuple[Tensor, Tensor]) -> Tensor:
        keys, values = memory
        q = rope_cache.run(
            self._qkv(x, None), rows.cos, rows.sin, keys, values, rows.positions, rows.slots,
            q_norm=self._q_norm, k_norm=self._k_norm, eps=self._eps,
        )  # fmt: skip
        return self._out(attention.run(q, keys, values, rows.lengths, rows.slots).flatten(1), h)


class GatedAttention:
    """Qwen3.5's: each head has a gate, norms are around one, and a part of the features is rotated."""

    def __init__(self, module: Any) -> None:
        from transformers.models.qwen3_5.modeling_qwen3_5 import apply_rotary_pos_emb

        self._turned = apply_rotary_pos_emb
        self._qkv = projection(module.q_proj, module.k_proj, module.v_proj)
        self._q_norm, self._k_norm = Norm.of(module.q_norm), Norm.of(module.k_norm)
        self._head_dim = module.head_dim
        self._sizes = [layer.out_features for layer in (module.q_proj, module.k_proj, module.v_proj)]
        self._out = projection(module.o_proj)

    def __call__(self, x: Tensor, h: Tensor, rows: Rows, memory: tuple[Tensor, Tensor]) -> Tensor:
        keys, values = memory
        of_queries, k, v = (
            part.unflatten(1, (-1, self._head_dim)) for part in self._qkv(x, None).split(self._sizes, -1)
        )
        q, gate = of_queries.unflatten(1, (-1, 2)).unbind(2)  # [R, H, D] each
        q, k = self._turned(self._q_norm(q), self._k_norm(k), rows.cos, rows.sin)
        keys[rows.slots, :, rows.positions] = k
        values[rows.slots, :, rows.positions] = v
        attended = attention.run(q.contiguous(), keys, values, rows.lengths, rows.slots)
        return self._out((attended * torch.sigmoid(gate)).flatten(1), h)
