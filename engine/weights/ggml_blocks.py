"""The blocks of GGUF files as numbers: weights of ggml's quantized types in fp32.

Scales are fp16 in the files and fp32 from the first product on, so that a weight beyond the range of fp16
stays what it is; the order of operations is ggml's own (ggml-quants.c, dequantize_row_*), so that the result
is, bit for bit. B blocks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

_SUPER = 256
"""Weights of a block of the K types."""
_PAIR_SHIFTS: Final = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)
"""Of the four pairs of bits in a byte."""
_BIT_SHIFTS: Final = torch.arange(8, dtype=torch.uint8)


def dequantize(blocks: Tensor, kind: str) -> Tensor:
    """blocks uint8 [B, bytes of a block], contiguous -> fp32 [B, weights of a block]."""
    return DEQUANTIZE[kind](blocks)


def _halves(blocks: Tensor, start: int, count: int = 1) -> Tensor:
    """fp16 at `start` -> fp32 [B, count]."""
    return blocks[:, start : start + 2 * count].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """uint8 [..., n] -> [..., 2 n]: all lower halves, then all upper ones."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


def _fifth_bits(blocks: Tensor, start: int) -> Tensor:
    """32 bits, the first weight's lowest -> uint8 [B, 32], 0 or 16."""
    bits = (blocks[:, start : start + 4, None] >> _BIT_SHIFTS.to(blocks.device)) & 1
    return bits.reshape(len(blocks), 32).to(torch.uint8) << 4


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _halves(blocks, 0)


def _q4_0(blocks: Tensor) -> Tensor:
    return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _halves(blocks, 0) * _nibbles(blocks[:, 4:]).float() + _halves(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _halves(blocks, 0) * (codes.float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _halves(blocks, 0) * codes.float() + _halves(blocks, 2)


def _six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """12 bytes of Q4_K and Q5_K -> scales and minima [B, 8], 6 bits each.

    The first four of each have bytes of their own, whose upper two bits belong to the last four.
    """
    scale, minimum, both = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = torch.cat((scale & 63, (both & 15) | ((scale >> 2) & 0x30)), dim=1)
    minima = torch.cat((minimum & 63, (both >> 4) | ((minimum >> 2) & 0x30)), dim=1)
    return scales.float(), minima.float()


def _scaled(blocks: Tensor, codes: Tensor) -> Tensor:
    """codes [B, 8, 32] of Q4_K and Q5_K -> d scale code - dmin minimum."""
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    step, offset = _halves(blocks, 0) * scales, _halves(blocks, 2) * minima
    return (step[..., None] * codes.float() - offset[..., None]).reshape(-1, _SUPER)


def _pairs(packed: Tensor) -> Tensor:
    """128 bytes -> codes [B, 8, 32]: each 32 bytes are two rows, of lower and of upper halves."""
    rows = packed.reshape(-1, 4, 1, 32)
    return torch.cat((rows & 15, rows >> 4), dim=2).reshape(-1, 8, 32)


def _q4_k(blocks: Tensor) -> Tensor:
    return _scaled(blocks, _pairs(blocks[:, 16:]))


def _q5_k(blocks: Tensor) -> Tensor:
    fifth = (blocks[:, 16:48].reshape(-1, 1, 32) >> _BIT_SHIFTS.to(blocks.device).view(1, 8, 1)) & 1
    return _scaled(blocks, _pairs(blocks[:, 48:]) | (fifth.to(torch.uint8) << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    lower = blocks[:, :128].reshape(-1, 2, 1, 64)
    lower = torch.cat((lower & 15, lower >> 4), dim=2).reshape(-1, 8, 32)
    shifts = _PAIR_SHIFTS.to(blocks.device).view(1, 1, 4, 1)
    upper = ((blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 8, 32).to(torch.uint8)
    codes = (lower | (upper << 4)).to(torch.int8) - 32
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    step = _halves(blocks, 208) * scales
    return (step[..., None] * codes.reshape(-1, 16, 16).float()).reshape(-1, _SUPER)


def _two_bits(packed: Tensor) -> Tensor:
    """64 bytes -> codes [B, 16, 16], 0 to 3: each 32 bytes are four rows of 32."""
    shifts = _PAIR_SHIFTS.to(packed.device).view(1, 1, 4, 1)
    return ((packed.reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 16, 16)


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    step, offset = _halves(blocks, 80) * (scales & 15).float(), _halves(blocks, 82) * (scales >> 4).float()
    codes = _two_bits(blocks[:, 16:80]).float()
    return (step[..., None] * codes - offset[..., None]).reshape(-1, _SUPER)


def _q3_k(blocks: Tensor) -> Tensor:
    third = (blocks[:, :32].reshape(-1, 1, 32) >> _BIT_SHIFTS.to(blocks.device).view(1, 8, 1)) & 1
    lower, upper = blocks[:, 96:104], blocks[:, 104:108].reshape(-1, 1, 4)
    upper = ((upper >> _PAIR_SHIFTS.to(blocks.device).view(1, 4, 1)) & 3).reshape(-1, 16)
    scales = (_nibbles(lower) | (upper << 4)).to(torch.int8) - 32
    less = ((1 - third) << 2).to(torch.int8).reshape(-1, 16, 16)  # where the third bit is not set
    codes = _two_bits(blocks[:, 32:96]).to(torch.int8) - less
    step = _halves(blocks, 108) * scales.float()
    return (step[..., None] * codes.float()).reshape(-1, _SUPER)


DEQUANTIZE: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
"""By type."""
