"""A root-mean-square norm as one operator, in place of the libraries' hand-written ones; knows no model.

Traced as the libraries write it, the graph optimizer recognises the norm, but gives the result a wrong type
where an fp32 input meets a half-precision weight. Invariant: computed in fp32, like theirs.
C features
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class RootMeanSquareNorm(nn.Module):
    """Takes over the weight of a library norm. [.., C] in any dtype -> the dtype of the weight, if half."""

    def __init__(self, norm: Any, epsilon: float) -> None:
        super().__init__()
        self.weight = norm.weight
        self.epsilon = float(epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        weight = self.weight
        exact = functional.rms_norm(hidden.float(), weight.shape, weight.float(), self.epsilon)
        return exact.to(weight.dtype if weight.dtype != torch.float32 else hidden.dtype)


def replace_norms(module: nn.Module, classes: tuple[type, ...], epsilon: str, *, expect: int) -> None:
    """Every norm of these classes below `module`, `expect` in number; `epsilon` names their field."""
    names = [name for name, child in module.named_modules() if isinstance(child, classes)]
    assert len(names) == expect, f"found {len(names)} norms, expected {expect}"
    for name in names:
        norm = module.get_submodule(name)
        module.set_submodule(name, RootMeanSquareNorm(norm, getattr(norm, epsilon)))
