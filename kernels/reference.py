"""The slow, obvious attention that every kernel is compared with, and how far apart two results are.

Knows no kernel. The reference computes in fp64 whatever the inputs are, so that no TF32 setting reaches it;
its neighbour is plain torch in the inputs' own type, which sets the tolerance. [B, A, N, D].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kernels.attention._checks import check, valid_keys, without_padding

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Of a result against the reference. NaN anywhere makes every number NaN."""

    largest: float
    """Largest absolute difference."""
    relative: float
    """||actual - expected|| / ||expected||."""
    cosine: float


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None) -> Tensor:
    """fp32 [B, A, N, D]; rows without keys are zero."""
    check(q, k, v, scale, kv_lengths)
    return _softmax(q.double(), k.double(), v.double(), scale, kv_lengths).float()


def plain(q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None) -> Tensor:
    """The same formula with every intermediate in the inputs' type."""
    check(q, k, v, scale, kv_lengths)
    return _softmax(q, k, v, scale, kv_lengths)


def compare(actual: Tensor, expected: Tensor) -> Errors:
    """Waits for the device."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} against {tuple(expected.shape)}"
    a, b = actual.double().flatten(), expected.double().flatten()
    norms = float(a.norm()) * float(b.norm())
    difference = float((a - b).norm())
    return Errors(
        largest=float((a - b).abs().max()),
        relative=difference / max(float(b.norm()), 1e-30) if not math.isnan(difference) else math.nan,
        cosine=float(a @ b) / norms if norms > 0 else math.nan if math.isnan(difference) else 1.0,
    )


def allowed_error(plain_error: float, expected: Tensor, dtype: torch.dtype, factor: float) -> float:
    """`factor` times the error of plain torch, or times what rounding alone may do at the largest value.

    That is a quarter step of `dtype`, since with a single key plain torch makes no error at all, and at least
    four steps of fp32, by which sums in another order differ.
    """
    largest = float(expected.abs().max())
    steps = max(0.25 * torch.finfo(dtype).eps, 4 * torch.finfo(torch.float32).eps)
    return factor * max(plain_error, steps * largest)


def _softmax(q: Tensor, k: Tensor, v: Tensor, scale: float, kv_lengths: Tensor | None) -> Tensor:
    if kv_lengths is not None:
        k, v = without_padding(k, kv_lengths), without_padding(v, kv_lengths)
    scores = q @ k.transpose(2, 3) * scale  # [B, A, N, M]
    if kv_lengths is not None:
        scores = scores.masked_fill(~valid_keys(kv_lengths, k.shape[2]), -math.inf)
    weights = scores.softmax(dim=3)
    if kv_lengths is not None:
        weights = weights.masked_fill((kv_lengths == 0)[:, None, None, None], 0)
    return weights @ v
