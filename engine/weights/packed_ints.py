"""Integer weights as AWQ, GPTQ and compressed-tensors pack them into words: codes, scales, zero points.

A weight is (code - zero of its group) * scale of its group. Knows no file and no model.
N output features . K input features . G groups of inputs . b bits of a code
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

AWQ_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""The nibble of a word in which AWQ's GEMM layout has the n-th of eight neighbouring features (llm-awq)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """codes uint8 [N, K]; scales fp32 [N, G]; zeros uint8 [N, G]; groups int64 [K], that of each input."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    groups: Tensor

    def dequantize(self) -> Tensor:
        """fp32 [N, K]."""
        zeros, scales = self.zeros[:, self.groups], self.scales[:, self.groups]
        return (self.codes.float() - zeros.float()) * scales

    def in_groups_of(self, size: int) -> tuple[Tensor, Tensor] | None:
        """(codes, scales [N, K / size]) where each `size` neighbouring inputs share a scale and every zero is
        8, the middle of four bits; else None."""
        in_order = self.groups.view(-1, size)
        if not torch.equal(in_order, in_order[:, :1].expand_as(in_order)) or not bool(
            (self.zeros == 8).all()
        ):
            return None
        return self.codes, self.scales[:, in_order[:, 0]].contiguous()


def unpack(words: Tensor, bits: int) -> Tensor:
    """int32 [R, C] -> uint8 [R, C * 32 / b], the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    codes = (words[..., None] >> shifts) & ((1 << bits) - 1)  # what a negative word fills up with is cut off
    return codes.to(torch.uint8).flatten(-2)


def awq(qweight: Tensor, qzeros: Tensor, scales: Tensor, *, bits: int) -> Codes:
    """qweight int32 [K, N b / 32], qzeros int32 [G, N b / 32], scales [G, N]; four bits alone."""
    assert bits == 4, f"AWQ of {bits} bits"
    order = torch.tensor(AWQ_ORDER, device=qweight.device)

    def features(words: Tensor) -> Tensor:
        return unpack(words, bits).view(len(words), -1, len(AWQ_ORDER))[..., order].flatten(1)

    groups = _in_order(qweight.shape[0], scales.shape[0], qweight.device)
    return _transposed(features(qweight), features(qzeros), scales, groups)


def gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor | None, *, bits: int, zero_offset: int
) -> Codes:
    """qweight int32 [K b / 32, N], qzeros int32 [G, N b / 32], scales [G, N], g_idx [K]: each input's group.

    zero_offset: 1 for files that store a zero point less one (the first format), 0 for `gptq_v2`.
    """
    codes = unpack(qweight.t(), bits).t()
    zeros = unpack(qzeros, bits) + zero_offset
    in_order = _in_order(codes.shape[0], scales.shape[0], codes.device)
    groups = in_order if g_idx is None else g_idx.long().to(codes.device)
    return _transposed(codes, zeros, scales, groups)


def compressed(
    weight_packed: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor | None,
    g_idx: Tensor | None,
    *,
    bits: int,
) -> Codes:
    """weight_packed int32 [N, K b / 32], weight_scale [N, G], weight_zero_point int32 [N b / 32, G].

    Codes and zero points are stored with half their range added; without zero points they are in its middle.
    """
    codes = unpack(weight_packed, bits)
    num_groups = weight_scale.shape[1]
    middle = 1 << (bits - 1)
    if weight_zero_point is None:
        zeros = torch.full(weight_scale.shape, middle, dtype=torch.uint8, device=codes.device)
    else:
        zeros = unpack(weight_zero_point.t(), bits).t()[: codes.shape[0]].contiguous()
    in_order = _in_order(codes.shape[1], num_groups, codes.device)
    groups = in_order if g_idx is None else g_idx.long().to(codes.device)
    return Codes(codes=codes, scales=weight_scale.float(), zeros=zeros, groups=groups)


def scaled(weight: Tensor, scale: Tensor, block: tuple[int, int] | None) -> Tensor:
    """weight [N, K] of 8 bits times one scale, one a row [N, 1], or one for each `block` of it -> fp32."""
    if scale.numel() == 1:
        return weight.float() * scale.float().reshape(())
    rows, columns = block or (1, weight.shape[1])
    full = scale.float().repeat_interleave(rows, 0)[: weight.shape[0]]
    return weight.float() * full.repeat_interleave(columns, 1)[:, : weight.shape[1]]


def _in_order(inputs: int, num_groups: int, device: torch.device) -> Tensor:
    return torch.arange(inputs, device=device) // -(-inputs // num_groups)


def _transposed(codes: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor) -> Codes:
    return Codes(
        codes=codes.t().contiguous(),
        scales=scales.float().t().contiguous(),
        zeros=zeros.t().contiguous(),
        groups=groups,
    )
