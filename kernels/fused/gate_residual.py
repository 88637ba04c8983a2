"""h + gate * y where no norm follows: the kernel of `residual_norm` without its norm.

B batch . S tokens . C channels . R rows of modulation (1 or 2).
"""

from __future__ import annotations

from torch import Tensor

from kernels.descriptors import Target
from kernels.fused import residual_norm


def supports(target: Target, *, channels: int) -> str | None:
    """None when `run` can use its Triton kernel, else the reason."""
    return residual_norm.supports(target, channels=channels)


def run(h: Tensor, y: Tensor, gate: Tensor | None = None, *, split: int = 0) -> Tensor:
    """h, y [B, S, C], gate [B or 1, R, C] as in `residual_norm` -> [B, S, C] in the dtype of h."""
    if not h.is_cuda:
        return plain(h, y, gate, split=split)
    return residual_norm.launch_residual(h, y, gate, split)


def plain(h: Tensor, y: Tensor, gate: Tensor | None = None, *, split: int = 0) -> Tensor:
    """The same in plain torch."""
    step = y.float() if gate is None else y.float() * residual_norm.per_token(gate, split, h.shape[1])
    return (h.float() + step).to(h.dtype)
