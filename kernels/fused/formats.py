"""The two 8-bit formats of Retake and what quantizing to them means, in plain torch: the oracle of the
kernels.

Symmetric, one fp32 scale per row (a token, an output channel): `x8 = round(x / scale)`, `scale = amax / max`.
Knows no kernel and no module. Invariant: a quantized value never exceeds the format, an all-zero row stays
zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_AMAX = 1e-12
"""Rows below it count as this large, so that a row of zeros has a scale that divides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """An 8-bit format. `code` is its number inside the kernels, `max` its largest finite value that is used.

    `relative_error`: bound on the relative RMS error of one quantized tensor of normal-like rows; the matrix
    product of two such tensors stays below twice it.
    """

    name: str
    dtype: torch.dtype
    max: float
    code: int
    relative_error: float


FP8 = Format(name="fp8", dtype=torch.float8_e4m3fn, max=448.0, code=1, relative_error=0.032)
INT8 = Format(name="int8", dtype=torch.int8, max=127.0, code=2, relative_error=0.015)
FORMATS = {fmt.name: fmt for fmt in (FP8, INT8)}
"""E4M3 keeps 3 bits of mantissa: rounding is uniform within a step of 1/8 to 1/16 of the value, 1/(16 sqrt 3)
at most = 0.036, 0.026 on average. INT8 has a uniform step of amax / 127: with amax about 4.5 sigma for rows
of thousands of normal values the error is 4.5 / 127 / sqrt 12 = 0.010 of sigma."""


HADAMARD_SIZE = 4
"""Order of the matrix of `hadamard`. On q and k of the bundled generator E4M3's error in the output of
attention falls from 0.039 to 0.024 with 4, to 0.022 with 8 and no further; 4 fit the registers of a pass."""


def format_of(name: str) -> Format:
    assert name in FORMATS, f"8-bit format {name!r} is not one of {', '.join(FORMATS)}"
    return FORMATS[name]


def to_format(x: Tensor, fmt: Format) -> Tensor:
    """Rounds fp32 values to the format, half to even, saturating. Any shape. The only such cast in torch.

    Beyond 448 torch's own cast to E4M3 depends on its version (docs/behaviour.md).
    """
    x = x.clamp(-fmt.max, fmt.max)
    return x.round().to(fmt.dtype) if fmt.dtype == torch.int8 else x.to(fmt.dtype)


def quantize_rows(x: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """x [..., K] -> (x8 [..., K], scale [..., 1] fp32), one scale per row."""
    if x.is_meta:  # of an outline only sizes count; through torch's operations they take a second a model
        return torch.empty_like(x, dtype=fmt.dtype), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(SMALLEST_AMAX) / fmt.max
    return to_format(x * (1.0 / scale), fmt), scale


def dequantize(x8: Tensor, scale: Tensor) -> Tensor:
    """fp32 values of x8; `scale` broadcasts."""
    return x8.float() * scale


def hadamard_fp8(x: Tensor, scale: Tensor) -> Tensor:
    """x [..., D], Hadamard-rotated, divided by `scale`, which broadcasts, and rounded to E4M3."""
    return to_format(hadamard(x) * (1.0 / scale), FP8)


def hadamard(x: Tensor) -> Tensor:
    """The Hadamard rotation of x [..., D] in groups of four: channel i of each quarter of D.

    The matrix has rows of length 1 and is orthogonal, so q k^T is the same when both are rotated. A value in
    floating point is rounded relative to itself, and in trained heads a few large channels make most of a
    score, so their few rounding errors make most of its error; rotated, it is the mean of four times as many.
    (Before quantization: QuaRot, arXiv 2404.00456; FlashAttention-3, arXiv 2407.08608.)
    """
    x0, x1, x2, x3 = x.chunk(HADAMARD_SIZE, dim=-1)
    sum_01, difference_01, sum_23, difference_23 = x0 + x1, x0 - x1, x2 + x3, x2 - x3
    parts = (
        sum_01 + sum_23,
        difference_01 + difference_23,
        sum_01 - sum_23,
        difference_01 - difference_23,
    )
    return torch.cat(parts, dim=-1) * 0.5
