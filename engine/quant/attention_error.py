"""8-bit self-attention in plain torch and fp32, to measure its error where no kernel runs, on a CPU too.

fp8: what the fused path does. q and k: norm, rotary embedding, Hadamard rotation, rounding with their static
scale (kernels.fused.qk_norm_rope); v with one scale a head (head_quant); the weights of softmax in E4M3 with
FlashAttention-3's offset of 8 binary orders. int8: triton_int8, keys without their mean. sparse: the blocks
of our sparse kernels; sol: those of comfy-kitchen's, without its rounding and its own blocks beside a query.
Not copied is the order of summation.
B batch . S tokens . C channels . A heads . N sampled queries . D head size
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention import comfy_sol, triton_prefix_sparse
from kernels.fused import head_quant, qk_norm_rope
from kernels.fused.formats import FP8, HADAMARD_SIZE, INT8, dequantize, quantize_rows, to_format

WEIGHT_OFFSET = 256.0
"""FlashAttention-3 stores exp(score - max) times 2^8 in E4M3, which keeps small weights above its smallest
normal value."""
SPARSE, SOL = "sparse", "sol"
LAYOUTS = {SPARSE: triton_prefix_sparse.LAYOUT, SOL: comfy_sol.LAYOUT}
"""Attentions that leave keys out; sol has no exact prefix."""
KEY_TILE = 64
"""Keys that share a scale in INT8; the kernel's tiles have 64 or 128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projected:
    """q, k, v of a self-attention as its linear layers make them, each [B, S, C], and what follows."""

    q: Tensor
    k: Tensor
    v: Tensor
    norm_q: Tensor  # [C]
    norm_k: Tensor
    cos: Tensor  # fp32 [1, S, 1, D]
    sin: Tensor
    heads: int
    eps: float
    prefix: int = 0
    """Leading tokens whose keys a sparse attention keeps exact."""
    first_query: int = 0
    """Those before it look at other keys than these, and in no 8-bit kernel."""


def reason_against(head_dim: int, format: str) -> str | None:
    """Why no kernel has this self-attention in this format; None when one may."""
    if format == SOL and head_dim != comfy_sol.HEAD_DIM:
        return f"head size {head_dim} is not {comfy_sol.HEAD_DIM}"
    if format == FP8.name and head_dim % (2 * HADAMARD_SIZE):
        return f"head size {head_dim} is not a multiple of {2 * HADAMARD_SIZE}"
    return None


def outputs(given: Projected, format: str | None, num_queries: int) -> Tensor:
    """fp32 [B, A, N, D] of about `num_queries` evenly spaced queries. format: "fp8", "int8", "sparse", "sol",
    None: exact."""
    stride = max(1, (given.q.shape[1] - given.first_query) // num_queries)

    def rotated(x: Tensor, weight: Tensor) -> Tensor:
        """[B, A, S, D]"""
        scale = qk_norm_rope.static_scale(weight, given.heads) if format == FP8.name else None
        out = qk_norm_rope.plain(
            x.float(), weight, given.cos, given.sin, heads=given.heads, eps=given.eps, scale=scale
        )
        return (out if scale is None else dequantize(out, scale[:, None])).transpose(1, 2)

    q, k = rotated(given.q, given.norm_q)[:, :, given.first_query :], rotated(given.k, given.norm_k)
    v = given.v.float().unflatten(2, (given.heads, -1))
    if format in LAYOUTS:
        return triton_prefix_sparse.plain(
            q,
            k,
            v.transpose(1, 2),
            scale=q.shape[-1] ** -0.5,
            prefix=given.prefix if format == SPARSE else 0,
            rows=slice(None, None, stride),
            layout=LAYOUTS[format],
        )
    q = q[:, :, ::stride]
    if format == FP8.name:
        v8, v_scale = head_quant.plain(v)
        v = dequantize(v8, v_scale[:, None, :, None])
    elif format == INT8.name:
        q = dequantize(*quantize_rows(q, INT8))
        k = _tiles(k - k.mean(dim=2, keepdim=True))
    return _attend(q, k, v.transpose(1, 2), rounded=format == FP8.name)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, rounded: bool) -> Tensor:
    """softmax of q k^T times v; `rounded`: weights in E4M3, their sum not, as the kernel has it."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    total = weights.sum(dim=-1, keepdim=True)
    if rounded:
        weights = to_format(weights * WEIGHT_OFFSET, FP8).float() / WEIGHT_OFFSET
    out: Tensor = (weights @ v) / total
    return out


def _tiles(k: Tensor) -> Tensor:
    """k [B, A, S, D] rounded to INT8 with one scale per tile of keys."""
    tiles = [dequantize(*quantize_rows(tile.flatten(2), INT8)) for tile in k.split(KEY_TILE, dim=2)]
    return torch.cat([tile.unflatten(2, (-1, k.shape[3])) for tile in tiles], dim=2)
