"""What every 8-bit linear layer takes: rows and weights of a format, with their scales.

M rows (tokens) . K input features . N output features.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Operands:
    """x8 [..., K] contiguous, x_scale [..., 1], w8 [N, K], w_scale [N], bias [N] -> [..., N] of out_dtype.

    x8 and w8 are of the format of the layer, E4M3 or int8; the scales are fp32.
    """

    x8: Tensor
    x_scale: Tensor
    w8: Tensor
    w_scale: Tensor
    bias: Tensor | None
    _: KW_ONLY
    out_dtype: torch.dtype
