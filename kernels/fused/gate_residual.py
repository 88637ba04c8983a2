"""h + gate * y where no norm follows: the kernel of `residual_norm` without its norm.

B batch . S tokens . C channels . R rows of modulation (1 or 2).
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused import residual_norm
from kernels.fused._operators import entry_points, operator


def supports(target: Target, *, channels: int) -> str | None:
    """None when `run` can use its Triton kernel, else the reason."""
    return residual_norm.supports(target, channels=channels)


@dataclass(frozen=True, slots=True)
class Arguments:
    """h, y [B, S, C], gate [B or 1, R, C] as in `residual_norm` -> [B, S, C] in the dtype of h."""

    h: Tensor
    y: Tensor
    gate: Tensor | None = None
    _: KW_ONLY
    split: int = 0


def _plain(args: Arguments) -> Tensor:
    return residual_norm.add_gated(args.h, args.y, args.gate, args.split)


def _gate_residual(args: Arguments) -> Tensor:
    """The operator."""
    h_new = torch.empty(args.h.shape, dtype=args.h.dtype, device=args.h.device)
    residual = residual_norm.Arguments(args.h, args.y, args.gate, split=args.split, eps=0.0)
    residual_norm.start(residual, (h_new, h_new, h_new), norm=False)
    return h_new


_launch = operator("retake::gate_residual", Arguments, _gate_residual)

run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch)
