"""Attention's inputs to 8 bits in plain torch, which torch.compile fuses: E4M3 by head, channel or tensor.

Does not know the attention that follows. Invariant: padded tokens become zeros whatever they held, a scale is
above zero, and nothing waits for the device. B batch, A heads, N tokens, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention._checks import without_padding
from kernels.fused.formats import FP8, to_format

E4M3_MAX = FP8.max
FP16_PEAK = 256.0  # a tile of 128 keys with weights up to 1 then sums to half of what fp16 holds
SMALLEST_PEAK = 1e-12


def channel_mean(k: Tensor, kv_lengths: Tensor | None) -> Tensor:
    """fp32 [B, A, D]: the mean of the keys that exist."""
    if kv_lengths is None:
        return k.mean(dim=2, dtype=torch.float32)
    total = without_padding(k, kv_lengths).sum(2, dtype=torch.float32)
    return total / kv_lengths.clamp(min=1)[:, None, None]


def e4m3_channels(v: Tensor, kv_lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """v to E4M3 [B, A, N, D] with tokens contiguous in memory, and fp32 scales [B, A, D].

    The FP8 matrix instruction of compute capability 9.0 takes only operands whose summed dimension is
    contiguous.
    """
    batch, heads, num_tokens, head_dim = v.shape
    values = v if kv_lengths is None else without_padding(v, kv_lengths)
    scales = peak(values, 2)[:, :, 0] / E4M3_MAX
    padded = -(-num_tokens // 16) * 16  # rows of whole 16-byte loads
    out = torch.empty((batch, heads, head_dim, padded), dtype=FP8.dtype, device=v.device)
    out = out.transpose(2, 3)[:, :, :num_tokens]
    out.copy_(to_e4m3(values, scales[:, :, None]))
    return out, scales


def fp16_channels(v: Tensor, kv_lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """v to fp16 [B, A, N, D] of at most FP16_PEAK, and fp32 scales [B, A, D]."""
    values = v if kv_lengths is None else without_padding(v, kv_lengths)
    scales = peak(values, 2) / FP16_PEAK
    return (values.float() / scales).to(torch.float16), scales[:, :, 0]


def smooth_keys(k: Tensor, kv_lengths: Tensor | None) -> Tensor:
    """k without its per-channel mean: softmax ignores what every key of a row has in common."""
    smooth = k.float() - channel_mean(k, kv_lengths)[:, :, None]
    return smooth if kv_lengths is None else without_padding(smooth, kv_lengths)


def e4m3_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, A, N, D] to E4M3 with one scale per head: fp32 [B, A]."""
    scales = peak(x, (2, 3)) / E4M3_MAX
    return to_e4m3(x, scales), scales[:, :, 0, 0]


def e4m3_tensor(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, A, N, D] to E4M3 with one scale for all: fp32 [1, 1, 1, 1]."""
    scale = peak(x, (0, 1, 2, 3)) / E4M3_MAX
    return to_e4m3(x, scale), scale


def peak(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Largest magnitude along `dims`, kept as dimensions of 1; above zero."""
    return x.abs().amax(dim=dims, keepdim=True).float().clamp(min=SMALLEST_PEAK)


def to_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    return to_format(x.float() / scale, FP8)
